"""Weights that are damaged, of another network or malicious are refused with one sentence, and nothing of them runs."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from layouts import Malicious, write_malicious
from spoiled import SIDECAR, arguments, digest, other

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.errors import Exit
from fewshot_cli.weights import checkpoint


def spoil(world: Path, case: str, tmp_path: Path) -> Path:
    """A weights file with one fault."""
    good = (world / "weights.safetensors").read_bytes()
    path = tmp_path / "w" / "bad.safetensors"
    path.parent.mkdir()
    side = path.with_name("bad.safetensors.json")
    path.write_bytes(good)
    side.write_bytes((world / "weights.safetensors.json").read_bytes())
    tensors = checkpoint.load(world / "weights.safetensors").tensors
    name = "backbone.blocks.0.0.weight"
    if case == "truncated":
        path.write_bytes(good[:-100])
    elif case == "empty":
        path.write_bytes(b"")
    elif case == "flipped":
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif case == "bad sidecar":
        side.write_text("{")
    elif case == "list as sidecar":
        side.write_text("[]")
    elif case == "no safetensors":
        path.write_bytes(b"hello" * 100)
        side.write_text(json.dumps({"sha256": digest(path)}))
    elif case == "NaN":
        checkpoint.save_tensors(path, tensors | {name: torch.full_like(tensors[name], float("nan"))}, SIDECAR)
    elif case == "one infinity":
        spoiled = tensors[name].clone()
        spoiled[-1, -1, -1, -1] = float("inf")
        checkpoint.save_tensors(path, tensors | {name: spoiled}, SIDECAR)
    elif case == "one missing":
        checkpoint.save_tensors(path, {k: v for k, v in tensors.items() if k != name}, SIDECAR)
    elif case == "one too many":
        checkpoint.save_tensors(path, tensors | {"backbone.extra": torch.zeros(3)}, SIDECAR)
    elif case == "wider":
        other(path, channels=8, last_pool=False)
    elif case == "other backbone":
        resnet = build_backbone(load_recipe("glyphs_5w1s", ["backbone={name: resnet12}"]))
        checkpoint.save(path, {"backbone": resnet}, {"backbone": {"name": "resnet12"}})
    elif case == "folder":
        path.unlink()
        path.mkdir()
    elif case == "gone":
        path.unlink()
    return path


WEIGHTS = {
    "gone": r"bad\.safetensors: no such weights; give",
    "truncated": r"bad\.safetensors: SHA-256 is .*truncated or changed; copy both files again",
    "empty": r"bad\.safetensors: SHA-256 is .*truncated or changed",
    "flipped": r"bad\.safetensors: SHA-256 is .*truncated or changed",
    "bad sidecar": r"bad\.safetensors\.json: the sidecar .*unreadable",
    "list as sidecar": r"bad\.safetensors\.json: the sidecar .*unreadable",
    "no safetensors": r"bad\.safetensors: is not a safetensors file",
    "NaN": r"backbone\.blocks\.0\.0\.weight holds NaN or infinity",
    "one infinity": r"backbone\.blocks\.0\.0\.weight holds NaN or infinity",
    "one missing": r"has no backbone\.blocks\.0\.0\.weight, which backbone conv64 needs \(these are .* conv64\)",
    "one too many": r"holds backbone\.extra, which backbone conv64 does not have",
    "wider": r"backbone\.blocks\.0\.0\.weight is \[8, 3, 3, 3\], backbone conv64 needs \[4, 3, 3, 3\]",
    "other backbone": r"which backbone conv64 needs \(these are weights of resnet12\); use weights of this backbone",
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_bad_weights_are_refused(refused, world, tmp_path, case):
    path = spoil(world, case, tmp_path)
    for more in ([], ["--dry-run"]):
        refused(Exit.DATA, WEIGHTS[case], *arguments(world, "--weights", path, *more))
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_a_folder_as_weights_is_a_usage_error(refused, world, tmp_path):
    refused(
        Exit.USAGE,
        r"--weights .*: is a folder; give a file",
        *arguments(world, "--weights", spoil(world, "folder", tmp_path)),
    )


@pytest.mark.parametrize("how", ["torch zip", "torch legacy", "pickle"])
def test_a_malicious_pth_is_refused_and_not_run(refused, world, tmp_path, how):
    path, flag = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"params": {"blocks.0.0.weight": torch.zeros(4, 3, 3, 3)}, "more": Malicious(flag)}
    write_malicious(path, flag, content, how.removeprefix("torch "))
    refused(
        Exit.DATA,
        r"evil\.pth: holds more than tensors, so loading it could run code",
        *arguments(world, "--weights", path),
    )
    assert not flag.exists()
    if how == "pickle":
        pickle.loads(path.read_bytes()).close()
    else:
        torch.load(path, weights_only=False)
    assert flag.exists(), "the pickle would not have done anything anyway"


@pytest.mark.parametrize("content", [[1, 2], {}, {"params": {"a": 3}}, {0: torch.zeros(1)}, torch.zeros(3)])
def test_a_pth_that_is_no_state_dict_is_refused(refused, world, tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    refused(
        Exit.DATA, r"w\.pth: is not a mapping of names to tensors", *arguments(world, "--weights", tmp_path / "w.pth")
    )


def test_a_damaged_pth_is_refused_and_a_plain_one_is_not(refused, fsl, world, tmp_path):
    fresh = build_backbone(load_recipe(str(world / "good.yaml")))
    torch.save({"params": fresh.state_dict()}, tmp_path / "w.pth")
    assert fsl(*arguments(world, "--weights", tmp_path / "w.pth"))[0] == 0
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: len(whole) // 2])
    refused(Exit.DATA, r"w\.pth: ", *arguments(world, "--weights", tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["nobody", "/nowhere/nobody", "../nobody", "[x", "**"])
def test_weights_by_a_name_nobody_has_say_what_to_do(refused, world, name):
    refused(
        Exit.DATA,
        r"no weights for recipe good: .*or give --weights",
        "eval",
        "--recipe",
        world / "good.yaml",
        "--data-root",
        world / "data",
        "--set",
        f"weights='{name}'",
    )
