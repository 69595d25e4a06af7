"""Features that were computed elsewhere: read, prepared, evaluated, and written again."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from fewshot_cli.data.arrays import Arrays, read, write
from fewshot_cli.data.store import open_store
from fewshot_cli.errors import DataError

KEYS = {key: key for key in ("features", "labels", "names", "splits")}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    labels = [f"bird {i % 10}" for i in range(80)]
    centres = rng.standard_normal((10, 4, 2, 2), np.float32)
    features = np.stack([centres[i % 10] for i in range(80)]) + 0.1 * rng.standard_normal((80, 4, 2, 2), np.float32)
    splits = ["test" if i % 10 < 6 else "train" for i in range(80)]
    return Arrays(features, labels, [f"{i}.jpg" for i in range(80)], splits)


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".parquet"])
def test_what_is_written_is_read_again(arrays, tmp_path, ending):
    write(tmp_path / f"f{ending}", arrays, {"recipe": "mine"})
    again = read(tmp_path / f"f{ending}", KEYS)
    assert np.array_equal(again.features, arrays.features)
    assert (again.labels, again.names, again.splits) == (arrays.labels, arrays.names, arrays.splits)


@pytest.mark.parametrize("source", ["npz", "safetensors", "folder"])
def test_others_files_become_a_dataset(fsl, arrays, tmp_path, source):
    if source == "npz":  # vectors, other names, labels by number
        path = tmp_path / "f.npz"
        numbers = np.array([int(label[-1]) for label in arrays.labels])
        np.savez(
            path, x=arrays.features.mean((2, 3)).astype(np.float64), y=numbers, classes=[f"bird {i}" for i in range(10)]
        )
        sets = ("--set", "features=x", "--set", "labels=y", "--set", "test_share=0.6", "--set", "val_share=0")
    elif source == "safetensors":
        path = tmp_path / "f.safetensors"
        labels = np.array([int(label[-1]) for label in arrays.labels])
        save_file({"features": arrays.features.astype(np.float16), "labels": labels}, path)
        sets = ("--set", "test_share=0.6", "--set", "val_share=0")
    else:
        path, sets = tmp_path / "f", ()
        for i, (one, label) in enumerate(zip(arrays.features, arrays.labels, strict=True)):
            folder = path / arrays.splits[i] / label
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{i}.npy", one)
    code, out, err = fsl("prepare", "features", "--from", path, *sets)
    assert code == 0, err
    for recipe in ("features_5w1s", "features_5w1s_prototype"):
        code, out, err = fsl(
            "eval", "--recipe", recipe, "--set", "episode.query=5", "--episodes", "50", "--format", "json"
        )
        result = json.loads(out)
        assert code == 0 and result["accuracy"] > 80 and result["external"] == ["unknown"], err


def test_a_dataset_of_features_holds_them_and_nothing_else(fsl, arrays, tmp_path):
    write(tmp_path / "f.npz", arrays, {})
    assert fsl("prepare", "features", "--from", tmp_path / "f.npz")[0] == 0
    split = open_store(tmp_path / "data", "features").split("test")
    order = [split.names.index(name) for name, s in zip(arrays.names, arrays.splits, strict=True) if s == "test"]
    want = torch.from_numpy(arrays.features[[i for i, s in enumerate(arrays.splits) if s == "test"]])
    assert torch.equal(split.maps()[order], want) and split.channels == 4
    for words, says in (
        (("eval", "--set", "backbone=conv64", "--weights", "none"), "holds features, not images"),
        (("eval", "--set", "extractor=grid"), "features take extractor fcn"),
    ):
        code, _, err = fsl(words[0], "--recipe", "features_5w1s", *words[1:], "--set", "episode.query=5")
        assert code in (2, 3) and says in err, err
    code, _, err = fsl("eval", "--recipe", "glyphs_5w1s", "--set", "backbone=identity")
    assert code == 3 and "holds images, not features" in err
    code, _, err = fsl(
        "match", "--recipe", "features_5w1s", "--set", "episode.query=5", "--episode", "0", "-o", "m.png"
    )
    assert code == 0 and (tmp_path / "m.png").is_file(), err
    code, out, err = fsl("retrieve", "--recipe", "features_5w1s", "--k", "1", "--format", "json")
    assert code == 0 and json.loads(out)["recall"]["1"]["global"] > 80, err


def test_features_go_out_and_come_back_the_same(fsl, glyph_root, tmp_path):
    words = ("--recipe", "glyphs_5w1s", "--data-root", glyph_root)
    code, _, err = fsl("features", *words, "--split", "val", "-o", "g.safetensors")
    assert code == 0 and "next: fsl prepare features --from g.safetensors" in err
    code, _, err = fsl("features", *words, "-o", "g.safetensors")
    assert code == 2 and "already exists" in err
    code, _, err = fsl("features", *words, "-o", "g.txt")
    assert code == 2 and "must end in" in err
    assert fsl("prepare", "features", "--from", "g.safetensors", "--name", "glyphs_out")[0] == 0
    scores = []
    for source in (("glyphs_5w1s", "glyphs", glyph_root), ("features_5w1s", "glyphs_out", tmp_path / "data")):
        recipe, store, root = source
        sets = ("--set", f"dataset.store={store}", "--set", "eval.split=val", "--data-root", root, "--episodes", "200")
        scores.append(json.loads(fsl("eval", "--recipe", recipe, *sets, "--format", "json")[1])["accuracy"])
    assert abs(scores[0] - scores[1]) < 5  # other episodes, since the seed depends on the store's name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: {"features": a.features}, "has no labels"),
        (lambda a: {"x": a.features, "labels": a.labels}, "has no features"),
        (lambda a: {"features": a.features[:-1], "labels": a.labels}, "79 features and 80 labels"),
        (lambda a: {"features": a.features[:, 0], "labels": a.labels}, r"must be floats, arrays \[N,d\] or"),
        (lambda a: {"features": (a.features * 9).astype(int), "labels": a.labels}, "must be floats"),
        (lambda a: {"features": a.features, "labels": np.array([a.labels])}, r"labels are one for each feature"),
        (
            lambda a: {"features": np.where(a.features > 1, np.nan, a.features), "labels": a.labels},
            "holds NaN or infinity",
        ),
        (
            lambda a: {"features": a.features, "labels": np.full(80, 11), "classes": ["a", "b"]},
            "holds 11, classes has 2",
        ),
        (lambda a: {"features": a.features, "labels": [""] * 80}, "label of feature 0 is empty"),
    ],
)
def test_what_is_wrong_with_arrays_is_told(arrays, tmp_path, change, says):
    np.savez(tmp_path / "f.npz", **change(arrays))
    with pytest.raises(DataError, match=says):
        read(tmp_path / "f.npz", KEYS)


def test_files_that_are_none_are_told(arrays, tmp_path):
    np.savez(tmp_path / "objects.npz", features=np.array([{}], dtype=object), labels=["a"])  # would need pickle
    (tmp_path / "torn.npz").write_bytes((tmp_path / "objects.npz").read_bytes()[:100])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 nothing")
    for name in ("objects.npz", "torn.npz", "torn.parquet"):
        with pytest.raises(DataError, match="cannot be read as"):
            read(tmp_path / name, KEYS)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent.npz", KEYS)
    (tmp_path / "folder" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds no \.npy file"):
        read(tmp_path / "folder", KEYS)
    np.save(tmp_path / "folder" / "a" / "1.npy", np.zeros(3, np.float32))
    np.save(tmp_path / "folder" / "a" / "2.npy", np.zeros(4, np.float32))
    with pytest.raises(DataError, match=r"2\.npy: is \[4\], 1\.npy is \[3\]"):
        read(tmp_path / "folder", KEYS)
