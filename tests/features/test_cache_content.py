"""A feature cache whose content is not what was written is made again, and a store's labels are verified without it."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot_cli.data.format import hashed_columns

CHANGES = {
    "signs are flipped": lambda maps: torch.where(torch.arange(maps.numel()).view(maps.shape) % 3 == 0, -maps, maps),
    "zeros": lambda maps: torch.cat([maps[:40], torch.zeros_like(maps[40:])]),
    "half the channels": lambda maps: maps[:, ::2].contiguous(),
    "halves are exchanged": lambda maps: torch.cat([maps[40:], maps[:40]]),
    "not a number": lambda maps: maps.index_fill(0, torch.tensor([3]), torch.nan),
    "another type": lambda maps: maps.half(),
    "another rank": lambda maps: maps.flatten(1),
    "fewer": lambda maps: maps[:-1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_features_are_made_again(fsl, tiny, pretrained, tmp_path, change):
    words = ("--recipe", tiny.recipe, "--weights", pretrained / "weights.safetensors", "--format", "json")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny").symlink_to(tiny.root / "tiny")
    code, out, err = fsl("eval", *words)
    assert code == 0, err
    (cache,) = (tmp_path / "data" / "features").iterdir()
    maps = load_file(cache)["maps"]
    for metadata in (None, {"digest": "0" * 64}):
        save_file({"maps": CHANGES[change](maps)}, cache, metadata=metadata)
        code, again, err = fsl("eval", *words)
        assert code == 0 and "is damaged and will be made again" in err, err
        assert json.loads(again)["accuracy"] == json.loads(out)["accuracy"]
        assert torch.equal(load_file(cache)["maps"], maps)
    assert "damaged" not in fsl("eval", *words)[2]


def test_features_of_another_name_are_made_again(fsl, tiny, pretrained, tmp_path):
    words = ("--recipe", tiny.recipe, "--weights", pretrained / "weights.safetensors", "--format", "json")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny").symlink_to(tiny.root / "tiny")
    code, out, err = fsl("eval", *words)
    (mine,) = (tmp_path / "data" / "features").iterdir()
    assert fsl("eval", *words, "--set", "image.mean=[0.2, 0.2, 0.2]")[0] == 0
    (theirs,) = set((tmp_path / "data" / "features").iterdir()) - {mine}
    assert load_file(theirs)["maps"].shape == load_file(mine)["maps"].shape
    mine.write_bytes(theirs.read_bytes())
    code, again, err = fsl("eval", *words)
    assert code == 0 and "is damaged and will be made again" in err
    assert json.loads(again)["accuracy"] == json.loads(out)["accuracy"]


@pytest.mark.parametrize("old", [False, True])
def test_rotated_labels_are_seen_although_features_are_cached(fsl, tiny, pretrained, tmp_path, old):
    words = ("--recipe", tiny.recipe, "--weights", pretrained / "weights.safetensors")
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    for name in ("images.bin", "index.json"):
        (tmp_path / "data" / "tiny" / name).write_bytes((tiny.root / "tiny" / name).read_bytes())
    path = tmp_path / "data" / "tiny" / "index.json"
    index = json.loads(path.read_text())
    if old:
        for columns in index["splits"].values():
            del columns["columns_sha256"]
        path.write_text(json.dumps(index))
    assert fsl("eval", *words)[0] == 0
    labels = index["splits"]["test"]["label"]
    index["splits"]["test"]["label"] = labels[1:] + labels[:1]
    path.write_text(json.dumps(index))
    code, out, err = fsl("eval", *words)
    assert code == 3 and out == "" and "so the store is damaged; run `fsl prepare tiny --force` again" in err


@pytest.mark.parametrize(
    ("key", "value"),
    [("label", {"a": 1}), ("label", ["x"]), ("label", None), ("classes", 7), ("size", "many"), ("shape", [[1]])],
)
def test_an_index_of_other_types_is_a_sentence(fsl, tiny, pretrained, tmp_path, key, value):
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    for name in ("images.bin", "index.json"):
        (tmp_path / "data" / "tiny" / name).write_bytes((tiny.root / "tiny" / name).read_bytes())
    path = tmp_path / "data" / "tiny" / "index.json"
    index = json.loads(path.read_text())
    columns = index["splits"]["test"]
    columns[key] = value
    for honest in (False, True):  # also where the hash was made of the wrong values
        if honest:
            columns["columns_sha256"] = hashlib.sha256(hashed_columns(columns)).hexdigest()
        path.write_text(json.dumps(index))
        code, out, err = fsl("eval", "--recipe", tiny.recipe, "--weights", pretrained / "weights.safetensors")
        assert code == 3 and out == "" and "damaged" in err and "internal fault" not in err, err
