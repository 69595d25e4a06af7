"""`fsl weights list`, `show` and `verify`, and weights by name: those that ship, and those of another package."""

import json
import shutil

import pytest
import torch

from fewshot_cli import registry
from fewshot_cli.cli.options import weights_names
from fewshot_cli.config.load import load_recipe
from fewshot_cli.weights import checkpoint, find, installed


@pytest.fixture
def other_package(tmp_path, monkeypatch, pretrained):
    """A distribution as pip leaves it that brings good, damaged and missing weights."""
    folder, info = tmp_path / "site" / "others" / "weights", tmp_path / "site" / "others-1.0.dist-info"
    folder.mkdir(parents=True)
    info.mkdir()
    (folder.parent / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("")
    for name in ("theirs", "damaged"):
        for tail in ("", ".json"):
            shutil.copy(pretrained / f"weights.safetensors{tail}", folder / f"{name}.safetensors{tail}")
    whole = (folder / "damaged.safetensors").read_bytes()
    (folder / "damaged.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    lines = [f"{name} = others.weights" for name in ("theirs", "damaged", "missing", "glyphs_conv64")]
    lines += ["lost = nowhere.weights", "rude = rude.weights"]
    (info / "entry_points.txt").write_text("\n".join(["[fewshot_cli.weights]", *lines]))
    (tmp_path / "site" / "rude").mkdir()
    (tmp_path / "site" / "rude" / "__init__.py").write_text("import sys; sys.exit(0)")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry.entries.cache_clear()
    yield folder
    registry.entries.cache_clear()


def test_the_list_says_what_ships(fsl):
    code, out, _ = fsl("weights", "list", "--format", "json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and set(rows) == set(installed.names()) >= {"glyphs_conv64", "cub_conv64"}
    row = rows["cub_conv64_pretrain"]
    assert {k: row[k] for k in ("package", "backbone", "data", "stage")} == {
        "package": "fewshot-cli",
        "backbone": "conv64",
        "data": "cub",
        "stage": "pretrain",
    }
    validation = checkpoint.load(installed.file("cub_conv64_pretrain")).sidecar["validation"]
    assert row["validation %"] == f"{validation['accuracy']:.2f} ± {validation['ci95']:.2f}"


def test_what_is_shown_holds_the_recipe_that_made_them(fsl, tmp_path):
    code, out, _ = fsl("weights", "show", "cifar_fs_conv64", "--format", "json")
    facts, path = json.loads(out), installed.file("cifar_fs_conv64")
    assert code == 0 and facts["sha256"] == checkpoint.load(path).sha256 and facts["bytes"] == path.stat().st_size
    assert facts["expected by recipes"]["cifar_fs_5w1s_conv64"] == 61.78 and facts["licence"].startswith("MIT")
    code, text, _ = fsl("weights", "show", "cifar_fs_conv64")
    made_by = text.partition("made by this recipe:\n")[2]
    assert code == 0 and "sha256: " + facts["sha256"] in text
    (tmp_path / "again.yaml").write_text("\n".join(x for x in made_by.splitlines() if not x.startswith("name:")))
    again = load_recipe(str(tmp_path / "again.yaml"))
    assert again.pretrain.epochs == facts["recipe"]["pretrain"]["epochs"] and again.backbone.name == "conv64"


def test_weights_of_another_package_are_found_by_name(fsl, tiny, other_package):
    code, out, err = fsl("eval", *tiny.words, "--weights", "theirs", "--format", "json")
    assert code == 0 and json.loads(out)["weights"] == "others:theirs", err
    by_path = fsl("eval", *tiny.words, "--weights", other_package / "theirs.safetensors", "--format", "json")[1]
    assert json.loads(out)["accuracy"] == json.loads(by_path)["accuracy"]
    assert find.find_weights(load_recipe(str(tiny.recipe), ["weights=theirs"]), None).label == "others:theirs"
    assert weights_names("th") == ["theirs"] and "cub_conv64" in weights_names("cu")


def test_a_file_comes_before_a_name_and_is_completed(tiny, pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for tail in ("", ".json"):
        shutil.copy(pretrained / f"weights.safetensors{tail}", f"glyphs_conv64{tail}")
    shutil.copy(pretrained / "weights.safetensors", "runs/mine.safetensors")
    (tmp_path / "runs" / "notes.txt").write_text("no weights")
    assert find.named(tmp_path / "glyphs_conv64") == tmp_path / "glyphs_conv64"
    assert weights_names("run") == ["runs/"] and weights_names("runs/") == ["runs/mine.safetensors"]


def test_verify_tells_the_whole_from_the_damaged(fsl, other_package, pretrained):
    code, out, err = fsl("weights", "verify", "theirs", "cub_conv64", pretrained / "weights.safetensors")
    assert code == 0 and out == "" and err.count(": in order\n") == 3
    code, _, err = fsl("weights", "verify")
    assert code == 3 and "theirs: in order" in err and "truncated or changed" in err
    assert "missing.safetensors is not there; reinstall others" in err and "nowhere.weights" in err
    assert "rude.weights of package others cannot be found" in err
    assert "glyphs_conv64: the packages" in err and "both have one of this name; uninstall one" in err
    assert "not in order: damaged, glyphs_conv64, lost, missing, rude; reinstall" in err
    code, out, err = fsl("eval", "--recipe", "glyphs_5w1s")
    assert code == 3 and out == "" and "both have one of this name" in err
    code, out, _ = fsl("weights", "list", "--format", "json")
    rows = {row["name"]: row["validation %"] for row in json.loads(out)}
    assert code == 0 and "truncated or changed" in rows["damaged"] and "reinstall others" in rows["missing"]


def test_weights_that_do_not_fit_their_backbone_are_not_in_order(fsl, pretrained, tmp_path):
    made = checkpoint.load(pretrained / "weights.safetensors")
    spec = {**made.sidecar["backbone"], "channels": 9}
    checkpoint.save_tensors(tmp_path / "odd.safetensors", made.tensors, {**made.sidecar, "backbone": spec})
    code, _, err = fsl("weights", "verify", tmp_path / "odd.safetensors")
    assert code == 3 and "the backbone needs [9, 3, 3, 3]" in err
    checkpoint.save_tensors(tmp_path / "bare.safetensors", made.tensors, {"stage": "pretrain"})
    code, _, err = fsl("weights", "verify", tmp_path / "bare.safetensors")
    assert code == 3 and "names no backbone" in err


def test_a_name_nobody_has_is_a_missing_file(fsl):
    code, _, err = fsl("weights", "show", "cub_conv46")
    assert code == 3 and "cub_conv46: no such weights" in err and "did you mean 'cub_conv64'?" in err


def test_packed_weights_are_half_as_large_and_say_what_they_cost(fsl, tiny, pretrained, tmp_path):
    code, out, err = fsl("weights", "pack", pretrained, "-o", "mine.safetensors")
    assert code == 0 and out == "" and "3 epochs" in err, err
    run, ours = checkpoint.load(pretrained / "weights.safetensors"), checkpoint.load(tmp_path / "mine.safetensors")
    assert set(run.tensors) == set(ours.tensors) and ours.sidecar["packed_from"] == run.sha256
    for key, tensor in run.tensors.items():
        assert torch.equal(ours.tensors[key], tensor.half() if tensor.is_floating_point() else tensor)
    times = [json.loads(line) for line in (pretrained / "times.jsonl").read_text().splitlines()]
    assert ours.sidecar["seconds"] == round(sum(t["seconds"] for t in times)) and ours.sidecar["epochs"] == 3
    assert ours.sidecar["machines"] == [times[0]["machine"]] and "core" in times[0]["machine"]
    assert ours.sidecar["recipe"] == run.sidecar["recipe"] and ours.sidecar["classes"] == run.sidecar["classes"]
    half, whole = (
        json.loads(fsl("eval", *tiny.words, "--weights", path, "--format", "json")[1])["accuracy"]
        for path in ("mine.safetensors", pretrained / "weights.safetensors")
    )
    assert abs(half - whole) < 5
    code, _, err = fsl("weights", "pack", pretrained, "-o", "mine.safetensors")
    assert code == 2 and "mine.safetensors: already exists" in err
    assert fsl("weights", "pack", pretrained, "-o", "mine.safetensors", "--force")[0] == 0
    (tmp_path / "unfinished").mkdir()
    code, _, err = fsl("weights", "pack", "unfinished", "-o", "other.safetensors")
    assert code == 3 and "is not the directory of a finished training run" in err


def test_weights_beyond_half_precision_are_not_packed(fsl, pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "large")
    made = checkpoint.load(pretrained / "weights.safetensors")
    key = next(k for k, v in made.tensors.items() if v.is_floating_point())
    tensors = {**made.tensors, key: made.tensors[key] + 70000}
    sidecar = {k: v for k, v in made.sidecar.items() if k != "sha256"}
    checkpoint.save_tensors(tmp_path / "large" / "weights.safetensors", tensors, sidecar)
    code, _, err = fsl("weights", "pack", "large", "-o", "mine.safetensors")
    assert code == 3 and f"{key} holds values beyond float16" in err and not (tmp_path / "mine.safetensors").exists()


@pytest.mark.parametrize("key", ["backbone", "validation", "dataset", "recipe"])
def test_a_sidecar_of_other_types_is_a_sentence(fsl, pretrained, tmp_path, key):
    made = checkpoint.load(pretrained / "weights.safetensors")
    sidecar = {k: v for k, v in made.sidecar.items() if k != "sha256"} | {key: "conv64"}
    checkpoint.save_tensors(tmp_path / "odd.safetensors", made.tensors, sidecar)
    for verb in ("show", "verify"):
        code, _, err = fsl("weights", verb, tmp_path / "odd.safetensors")
        assert code == 3 and f"odd.safetensors.json: {key} is not a mapping" in err


def test_a_pack_replaces_no_sidecar_and_says_no_cost_it_does_not_know(fsl, pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "run")
    (tmp_path / "mine.safetensors.json").write_text("{}")
    code, _, err = fsl("weights", "pack", "run", "-o", "mine.safetensors")
    assert code == 2 and "mine.safetensors.json: already exists" in err
    (tmp_path / "run" / "times.jsonl").write_text("{}\n")
    code, _, err = fsl("weights", "pack", "run", "-o", "other.safetensors")
    assert code == 3 and "times.jsonl does not hold the seconds" in err
    (tmp_path / "run" / "times.jsonl").unlink()
    assert fsl("weights", "pack", "run", "-o", "other.safetensors")[0] == 0
    assert "seconds" not in checkpoint.load(tmp_path / "other.safetensors").sidecar
