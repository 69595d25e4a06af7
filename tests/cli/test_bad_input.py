"""Whatever is given to the command line: the documented exit code, one sentence, no traceback, nothing half-written."""

import errno
import hashlib
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from layouts import Malicious
from PIL import Image

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.data.prepare import build_store
from fewshot_cli.errors import Exit
from fewshot_cli.runtime.runs import Run
from fewshot_cli.weights import checkpoint

GOOD = """\
dataset: {name: images}
image: {size: 16}
backbone: {name: conv64, channels: 4, last_pool: false}
head: {name: prototype}
episode: {way: 3, shot: 1, query: 2}
eval: {episodes: 3}
"""
SIDECAR = {"backbone": {"name": "conv64", "channels": 4, "last_pool": False}}


def images(folder: Path, classes: list[str], each: int = 8) -> Path:
    rng = np.random.default_rng(0)
    for cls in classes:
        (folder / cls).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / cls / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A recipe, weights that fit it, and a data root with three classes of eight images in each split."""
    world = tmp_path_factory.mktemp("world")
    (world / "good.yaml").write_text(GOOD)
    folder = images(world / "pictures", [f"{s}/{s}{c}" for s in ("train", "val", "test") for c in "abc"])
    build_store("images", registry.dataset("images")(), [folder], world / "data")
    fresh = build_backbone(load_recipe(str(world / "good.yaml")))
    checkpoint.save(world / "weights.safetensors", {"backbone": fresh}, SIDECAR)
    return world


@pytest.fixture
def refused(fsl):
    """Run a command that must fail: checks the code, the sentence and that there is no traceback; returns stderr."""

    def run(code: Exit, sentence: str, *arguments: object) -> str:
        got, out, err = fsl(*map(str, arguments))
        said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())  # a usage error comes in a box
        assert got == code, said
        assert re.search(sentence, said), said
        assert "Traceback" not in out + err and "internal fault" not in err and out == ""
        return said

    return run


def arguments(world: Path, *more: object) -> list[str]:
    return [
        "eval",
        "--recipe",
        str(world / "good.yaml"),
        "--weights",
        str(world / "weights.safetensors"),
        "--data-root",
        str(world / "data"),
        *map(str, more),
    ]


def left(folder: Path) -> list[str]:
    """Files in a folder and below that look half-written."""
    return [str(p) for p in folder.rglob("*") if ".part" in p.name or p.name.startswith(".") or p.name.endswith(".tmp")]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_input_all_these_cases_spoil_is_good(fsl, world, tmp_path):
    code, out, err = fsl(*arguments(world, "--format", "json"))
    assert code == 0, err
    assert json.loads(out)["episodes"] == 3 and (tmp_path / "runs" / "eval" / "good" / "summary.json").exists()


# Recipes


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


BOMB = "a: &a [1, 2]\n" + "".join(
    f"{y}: &{y} [*{x}, *{x}, *{x}]\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True)
)
PRETRAIN = "pretrain: {optimizer: {lr: %s}}\n"
RECIPES = {
    "unknown key": (GOOD + "episod: {way: 3}\n", r"bad\.yaml:7: episod: unknown key \(did you mean 'episode'\?\)"),
    "unknown inner key": (
        changed("shot", "shoot"),
        r"bad\.yaml:5: episode\.shoot: unknown key \(did you mean 'shot'\?\)",
    ),
    "unknown option": (
        changed("channels", "chanels"),
        r"bad\.yaml:3: backbone\.chanels: unknown key \(did you mean 'channels'\?\)",
    ),
    "name inside": (GOOD + "name: mine\n", r"bad\.yaml:7: name: unknown key; a recipe is named by its file"),
    "word for a number": (changed("way: 3", "way: three"), r"bad\.yaml:5: episode\.way: .*integer.*'three'"),
    "quoted number": (changed("way: 3", "way: '3'"), r"bad\.yaml:5: episode\.way: .*integer"),
    "truth for a number": (changed("way: 3", "way: true"), r"bad\.yaml:5: episode\.way: .*integer"),
    "fraction for a number": (changed("way: 3", "way: 2.5"), r"bad\.yaml:5: episode\.way: .*integer"),
    "word no for a truth": (changed("false", "no"), r"bad\.yaml:3: backbone\.last_pool: .*boolean.*'no'"),
    "list for a section": (changed("{way: 3, shot: 1, query: 2}", "[3, 1, 2]"), r"bad\.yaml:5: episode: "),
    "number for a section": (changed("{way: 3, shot: 1, query: 2}", "3"), r"bad\.yaml:5: episode: .*not 3"),
    "nothing for a section": (changed(" {way: 3, shot: 1, query: 2}", ""), r"bad\.yaml:5: episode: .*not None"),
    "number for a part": (changed("{name: prototype}", "3"), r"bad\.yaml:4: head: must be a name"),
    "part without a name": (
        changed("name: conv64, ", ""),
        r"bad\.yaml:3: backbone: must be a name, or a mapping with a name",
    ),
    "number for the dataset": (changed("{name: images}", "3"), r"bad\.yaml:1: dataset: "),
    "missing key": (changed("head: {name: prototype}\n", ""), r"head: is missing"),
    "missing dataset name": (changed("{name: images}", "{crop: raw}"), r"bad\.yaml:1: dataset\.name: is missing"),
    "out of range": (changed("way: 3", "way: 1"), r"bad\.yaml:5: episode\.way: .*greater than or equal to 2, not 1"),
    "option out of range": (changed("channels: 4", "channels: 0"), r"bad\.yaml:3: backbone\.channels: .*greater"),
    "no such choice": (
        GOOD.replace("{episodes: 3}", "{split: tests}"),
        r"bad\.yaml:6: eval\.split: .*'test'.*not 'tests'",
    ),
    "huge number": (changed("way: 3", "way: " + "9" * 400), r"bad\.yaml:5: episode\.way: "),
    "NaN": (GOOD + PRETRAIN % ".nan", r"bad\.yaml:7: pretrain\.optimizer\.lr: .*finite"),
    "infinity": (GOOD + PRETRAIN % ".inf", r"bad\.yaml:7: pretrain\.optimizer\.lr: "),
    "overflow": (GOOD + PRETRAIN % "1e999", r"bad\.yaml:7: pretrain\.optimizer\.lr: "),
    "store that climbs": (changed("name: images", "name: images, store: ../x"), r"bad\.yaml:1: dataset\.store: "),
    "duplicate key": (GOOD + "eval: {episodes: 4}\n", r"bad\.yaml:7: eval: given twice \(first on line 6\)"),
    "duplicate inner key": (
        changed("way: 3,", "way: 3, way: 4,"),
        r"bad\.yaml:5: way: given twice \(first on line 5\)",
    ),
    "alias bomb": (GOOD + BOMB, r"bad\.yaml:7: anchors and aliases are not allowed"),
    "tag on a list": (
        GOOD + "description: !!python/object/apply:os.getcwd []\n",
        r"bad\.yaml:7: the tag .*getcwd is not allowed",
    ),
    "tag on a mapping": (
        changed("{size", "!!python/object:os.x {size"),
        r"bad\.yaml:2: the tag .*os\.x is not allowed",
    ),
    "scalar tag": (GOOD + "description: !!binary aGk=\n", r"bad\.yaml:7: the tag .*binary is not allowed"),
    "deep": ("a: " + "[" * 5000 + "]" * 5000, r"bad\.yaml:1: nested deeper than"),
    "list as a key": (GOOD + "? [a, b]\n: c\n", r"bad\.yaml:7: a key must be a plain word"),
    "unclosed": (GOOD + "head: {name: [\n", r"bad\.yaml:\d+: not valid YAML"),
    "tab": ("dataset:\n\tname: images\n", r"bad\.yaml:2: not valid YAML"),
    "two documents": (GOOD + "---\n" + GOOD, r"bad\.yaml:\d+: not valid YAML"),
    "words": ("just some words\n", r"bad\.yaml:1: a recipe is a mapping"),
    "list": ("- dataset\n", r"bad\.yaml:1: a recipe is a mapping"),
    "empty": ("", r"bad\.yaml:1: the recipe is empty"),
    "comment": ("# nothing\n", r"bad\.yaml:1: the recipe is empty"),
    "zero byte": (GOOD + "\0", r"bad\.yaml:\d+: not valid YAML"),
    "huge": (GOOD + "# filler\n" * 200_000, r"larger than 1 MiB"),
    "own base": ("base: bad\n", r"bad\.yaml:1: base: bad leads back to this recipe"),
    "missing base": ("base: glyphs_5w1\n", r"glyphs_5w1: no such recipe \(did you mean 'glyphs_5w1s'\?\)"),
    "number as base": ("base: 3\n", r"bad\.yaml:1: base: must be the name or path"),
    "unknown head": (
        changed("prototype", "prototypes"),
        r"bad\.yaml:4: head: unknown head 'prototypes' \(did you mean 'prototype'",
    ),
    "unknown backbone": (
        changed("conv64", "conv46"),
        r"bad\.yaml:3: backbone: unknown backbone 'conv46' \(did you mean 'conv64'",
    ),
    "unknown solver": (
        GOOD + "solver: openvc\n",
        r"bad\.yaml:7: solver: unknown solver 'openvc' \(did you mean 'opencv'",
    ),
    "unknown dataset": (changed("images", "imags"), r"unknown dataset 'imags' \(did you mean 'images'"),
    "unknown classifier": (
        GOOD + "pretrain: {classifier: liner}\n",
        r"bad\.yaml:7: pretrain\.classifier: unknown classifier 'liner' \(did you mean 'linear'",
    ),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_bad_recipe_is_refused_with_its_place(refused, tmp_path, case):
    text, sentence = RECIPES[case]
    (tmp_path / "bad.yaml").write_text(text)
    before = sorted(tmp_path.iterdir())
    refused(Exit.USAGE, sentence, "recipe", "check", "bad.yaml")
    refused(Exit.USAGE, sentence, "eval", "--recipe", tmp_path / "bad.yaml", "--data-root", tmp_path / "data")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("folder.yaml", r"folder\.yaml: is a folder, not a recipe"),
        ("binary.yaml", r"binary\.yaml: is not UTF-8 text, so not a recipe"),
        ("one.yaml", r"three\.yaml:1: base: one leads back to this recipe"),
        ("dangling.yaml", r"dangling\.yaml: no such recipe"),
        ("missing.yaml", r"missing\.yaml: no such recipe.*`fsl list recipes`"),
        ("glyphs_5w2s", r"glyphs_5w2s: no such recipe \(did you mean 'glyphs_5w"),
        ("", r"no such recipe|is a folder"),
        ("x" * 5000, r"no such recipe|cannot be read|[Nn]ame too long"),
    ],
)
def test_a_recipe_that_is_no_readable_file_is_refused(refused, tmp_path, name, sentence):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "one.yaml").write_text("base: two\n")
    (tmp_path / "two.yaml").write_text("base: three.yaml\n")
    (tmp_path / "three.yaml").write_text("base: one\n")
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "gone.yaml")
    refused(Exit.USAGE, sentence, "eval", "--recipe", name)


def test_a_fault_in_a_base_names_the_base(refused, tmp_path):
    (tmp_path / "base.yaml").write_text(changed("shot", "shoot"))
    (tmp_path / "top.yaml").write_text("base: base\neval: {episodes: 5}\n")
    refused(Exit.USAGE, r"base\.yaml:5: episode\.shoot: unknown key", "recipe", "check", "top.yaml")


@pytest.mark.parametrize(
    ("written", "value"), [("1e-3", 0.001), ("1E-3", 0.001), ("1e2", 100.0), (".5", 0.5), ("2", 2.0)]
)
def test_numbers_are_the_numbers_they_look_like(fsl, tmp_path, written, value):
    (tmp_path / "mine.yaml").write_text(GOOD + PRETRAIN % written)
    code, out, err = fsl("pretrain", "--recipe", "mine.yaml", "--print-config")
    assert code == 0, err
    got = yaml.safe_load(out)["pretrain"]["optimizer"]["lr"]
    assert isinstance(got, float) and got == value


# Options


SETS = {
    "no value": ("episode.shot", r"--set episode\.shot: write it as key=value"),
    "no key": ("=3", r"--set =3: write it as key=value"),
    "unknown key": ("episode.shoot=3", r"--set episode\.shoot: .*unknown key \(did you mean 'shot'"),
    "unknown section": ("episod.shot=3", r"--set episod\.shot: .*unknown key \(did you mean 'episode'"),
    "too deep": ("eval.episodes.x=3", r"eval\.episodes has no keys inside"),
    "not YAML": ("episode.shot=[1", r"--set.*not valid YAML"),
    "alias": ("episode.shot=*x", r"--set.*anchors and aliases"),
    "wrong type": ("episode.shot=lots", r"--set episode\.shot: .*integer.*'lots'"),
    "nothing": ("episode.shot=", r"--set episode\.shot: .*integer.*None"),
    "out of range": ("episode.shot=0", r"--set episode\.shot: .*greater than or equal to 1"),
    "no such option of the part": ("head.temperature=3", r"--set head\.temperature: .*unknown key"),
    "another part's unknown name": ("head=emdd", r"--set head: .*unknown head 'emdd' \(did you mean 'emd'"),
    "a word for a section": ("dataset=images", r"--set dataset: "),
    "seed out of range": (f"seed={2**63}", r"--set seed: "),
    "empty word": ("episode..shot=3", r"--set episode\.\.shot: "),
}


@pytest.mark.parametrize("case", SETS)
def test_a_bad_override_is_refused(refused, world, tmp_path, case):
    text, sentence = SETS[case]
    refused(Exit.USAGE, sentence, *arguments(world, "--set", text))
    assert list(tmp_path.iterdir()) == []


OPTIONS = {
    "no episodes": (["--episodes", "0"], r"--episodes.*(range|greater than or equal to 1)"),
    "negative seed": (["--seed", "-1"], r"--seed.*(range|greater than or equal to 0)"),
    "negative batch": (["--batch", "-1"], r"--batch.*(range|greater than or equal to 0)"),
    "word for a number": (["--episodes", "many"], r"--episodes.*valid int"),
    "unknown format": (["--format", "xml"], r"--format.*'xml'"),
    "unknown device": (["--device", "tpu9"], r"--device tpu9: is no device; use auto, cpu, cuda"),
    "unsupported device": (["--device", "meta"], r"--device meta: only cpu and cuda"),
    "absent device": (["--device", "cuda:99"], r"--device cuda:99: PyTorch sees \d+ CUDA devices"),
    "unknown solver": (["--solver", "opencvv"], r"unknown solver 'opencvv' \(did you mean 'opencv'"),
    "solver that is no word": (["--solver", "[1"], r"unknown solver '\[1'"),
    "unknown option": (["--episode", "3"], r"[Nn]o such option: --episode"),
    "extra argument": (["more"], r"unexpected extra argument"),
    "check without expect": (["--check"], r"recipe good has no expect block; leave out --check or add expect"),
    "classifier without query": (["--classifier", "x.safetensors"], r"--classifier and --query go together"),
    "query without classifier": (["--query", "."], r"--classifier and --query go together"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_bad_option_is_refused(refused, world, tmp_path, case):
    more, sentence = OPTIONS[case]
    refused(Exit.USAGE, sentence, *arguments(world, *more))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["evil"], r"[Nn]o such command 'evil'"),
        (["show", "solvr", "pot"], r"solvr: no such kind \(did you mean 'solvers'"),
        (["show", "solver", "pott"], r"unknown solver 'pott' \(did you mean 'pot'"),
        (["list", "everything"], r"'everything'"),
        (["prepare"], r"[Mm]issing argument"),
        (["recipe", "cat", "glyphs"], r"glyphs: no such recipe"),
    ],
)
def test_a_bad_command_is_refused(refused, words, sentence):
    refused(Exit.USAGE, sentence, *words)


# Weights


def other(path: Path, **options: object) -> Path:
    cls = registry.backbone("conv64")
    checkpoint.save(path, {"backbone": cls(cls.Options(**options))}, {"backbone": {"name": "conv64", **options}})
    return path


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
    elif case == "no sidecar":
        side.unlink()
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
    "gone": r"bad\.safetensors: no such weights file",
    "truncated": r"bad\.safetensors: SHA-256 is .*truncated or changed; copy both files again",
    "empty": r"bad\.safetensors: SHA-256 is .*truncated or changed",
    "flipped": r"bad\.safetensors: SHA-256 is .*truncated or changed",
    "no sidecar": r"bad\.safetensors\.json: the sidecar of bad\.safetensors is missing",
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
    refused(Exit.USAGE, r"is a directory", *arguments(world, "--weights", spoil(world, "folder", tmp_path)))


@pytest.mark.parametrize("how", ["torch zip", "torch legacy", "pickle"])
def test_a_malicious_pth_is_refused_and_not_run(refused, world, tmp_path, how):
    path, flag = tmp_path / "evil.pth", tmp_path / "ran"
    content = {"params": {"blocks.0.0.weight": torch.zeros(4, 3, 3, 3)}, "more": Malicious(flag)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(flag), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch zip")
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
        r"no weights for recipe good: .*--weights FILE",
        "eval",
        "--recipe",
        world / "good.yaml",
        "--data-root",
        world / "data",
        "--set",
        f"weights='{name}'",
    )


# Data


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--set", "episode.query=8"], r"class testa has 8 images, an episode needs 9 \(1 support \+ 8 query\)"),
        (["--set", "episode.shot=7"], r"class testa has 8 images, an episode needs 9 \(7 support \+ 2 query\)"),
        (["--set", "episode.way=4"], r"has 3 classes, 4-way episodes need 4; lower episode\.way"),
        (["--set", "dataset.store=other"], r"dataset other is not prepared; run `fsl prepare"),
    ],
)
def test_data_that_cannot_fill_an_episode_says_have_and_need(refused, world, tmp_path, more, sentence):
    refused(Exit.DATA, sentence, *arguments(world, *more))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["eval", "pretrain", "metatrain"])
def test_a_dataset_that_is_not_prepared_names_the_command(refused, world, tmp_path, verb):
    more = [] if verb == "pretrain" else ["--weights", world / "weights.safetensors"]
    refused(
        Exit.DATA,
        r"dataset images is not prepared; run `fsl prepare images`",
        verb,
        "--recipe",
        world / "good.yaml",
        "--data-root",
        tmp_path / "none",
        *more,
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", ["flipped", "truncated", "index", "format"])
def test_a_damaged_store_is_refused_by_eval_and_leaves_no_features(refused, world, tmp_path, case):
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in ("images.bin", "index.json"):
        (tmp_path / "data" / "images" / name).write_bytes((world / "data" / "images" / name).read_bytes())
    blob, index = tmp_path / "data" / "images" / "images.bin", tmp_path / "data" / "images" / "index.json"
    if case == "flipped":
        blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    elif case == "truncated":
        blob.write_bytes(blob.read_bytes()[:-1])
    elif case == "index":
        index.write_text(index.read_text()[:-5])
    else:
        index.write_text(index.read_text().replace('"format":1', '"format":7', 1))
    sentence = {
        "flipped": "damaged",
        "truncated": "bytes, its index says",
        "index": "not a whole store",
        "format": "store format 7",
    }
    refused(
        Exit.DATA, sentence[case] + ".*fsl prepare images --force", *arguments(world, "--data-root", tmp_path / "data")
    )
    assert not (tmp_path / "data" / "features").exists()
    assert not list(tmp_path.rglob("summary.json"))


def test_pretraining_with_a_batch_larger_than_the_split_is_refused(refused, world):
    refused(
        Exit.DATA,
        r"the train split has 24 images, a batch needs 128; lower pretrain\.batch",
        "pretrain",
        "--recipe",
        world / "good.yaml",
        "--data-root",
        world / "data",
    )


# Preparing


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["image"], Exit.USAGE, r"unknown dataset 'image' \(did you mean 'images'"),
        (["images"], Exit.DATA, r"images: give --from a folder"),
        (["images", "--from", "nowhere"], Exit.DATA, r"nowhere: does not exist"),
        (["images", "--from", "broken"], Exit.DATA, r"a/broken\.png: does not decode as an image"),
        (["images", "--from", "good", "--set", "split_sed=3"], Exit.USAGE, r"split_sed: unknown key \(did you mean"),
        (["images", "--from", "good", "--set", "split_seed=x"], Exit.USAGE, r"split_seed: .*integer"),
        (["images", "--from", "good", "--set", "split_seed"], Exit.USAGE, r"--set split_seed: write it as key=value"),
        (["images", "--from", "good", "--set", "=3"], Exit.USAGE, r"--set"),
        (["images", "--from", "good", "--set", "splits=gone.json"], Exit.DATA, r"gone\.json"),
        (["images", "--from", "good", "--name", "../x"], Exit.USAGE, r"--name"),
        (["images", "--from", "good", "--name", ".hidden"], Exit.USAGE, r"--name"),
        (["images", "--from", "good/a/0.png"], Exit.DATA, r"0\.png: is neither a folder nor a whole zip or tar"),
        (["glyphs", "--set", "x=1"], Exit.USAGE, r"x: unknown key"),
    ],
)
def test_a_preparation_that_cannot_be_leaves_nothing(refused, tmp_path, words, code, sentence):
    images(tmp_path / "good", ["a", "b"], 1)
    images(tmp_path / "broken", ["a", "b"], 1)
    (tmp_path / "broken" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    refused(code, sentence, "prepare", *words, "--data-root", "root")
    assert not (tmp_path / "root").exists() or list((tmp_path / "root").iterdir()) == []
    assert not (tmp_path / "x").exists()


def test_a_failed_force_keeps_the_store_there_was(refused, fsl, tmp_path):
    good, bad = images(tmp_path / "good", ["a", "b"], 2), images(tmp_path / "bad", ["a", "b"], 2)
    (bad / "b" / "1.png").write_bytes(b"no image")
    assert fsl("prepare", "images", "--from", good, "--data-root", "root")[0] == 0
    before = {p: digest(p) for p in (tmp_path / "root").rglob("*") if p.is_file()}
    refused(
        Exit.DATA, r"b/1\.png: does not decode", "prepare", "images", "--from", bad, "--data-root", "root", "--force"
    )
    assert {p: digest(p) for p in (tmp_path / "root").rglob("*") if p.is_file()} == before


# Places that cannot be written


def test_a_data_root_that_is_a_file_is_a_usage_error(refused, tmp_path):
    (tmp_path / "file").write_text("")
    refused(Exit.USAGE, r"is a file", "prepare", "glyphs", "--data-root", "file")


@pytest.mark.parametrize("where", ["file/below", "/proc/fewshot", "/dev/null/x"])
def test_places_that_cannot_be_made_are_named(refused, world, tmp_path, where):
    (tmp_path / "file").write_text("kept")
    folder = images(tmp_path / "good", ["a", "b"], 1)
    refused(Exit.DATA, re.escape(where), "prepare", "images", "--from", folder, "--data-root", where)
    refused(Exit.DATA, re.escape(where), *arguments(world, "--run-dir", where))
    refused(Exit.DATA, re.escape(where), *arguments(world, "--data-root", where))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_without_permission_is_named(refused, world, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root")
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(Exit.DATA, r"permission denied; choose another folder", *arguments(world, "--run-dir", "locked/run"))


def test_features_that_cannot_be_cached_are_said_and_done_without(fsl, world, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(world / "data" / "images")
    (tmp_path / "data" / "features").write_text("in the way")
    code, out, err = fsl(*arguments(world, "--data-root", tmp_path / "data"))
    assert code == 0 and "features are not cached" in err and "good" in out and "Traceback" not in err


def test_a_disk_that_fills_up_while_preparing_leaves_nothing(refused, tmp_path, monkeypatch):
    folder = images(tmp_path / "good", ["a", "b"], 2)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(
        Exit.DATA,
        r"the disk is full; free some space or choose another folder",
        "prepare",
        "images",
        "--from",
        folder,
        "--data-root",
        "root",
    )
    assert list((tmp_path / "root").iterdir()) == []


LIMITED = """\
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv[1:] = sys.argv[2:]
from fewshot_cli.cli.app import main
main()
"""


def limited(size: int, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command whose files cannot grow beyond a size."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *words], cwd=cwd, capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
def test_a_write_refused_half_way_through_preparing_leaves_nothing(tmp_path):
    images(tmp_path / "good", list("abcd"), 4)
    words = ["prepare", "images", "--from", "good", "--data-root", "root"]
    done = limited(5000, *words, cwd=tmp_path)
    assert done.returncode == Exit.DATA and done.stderr.startswith("fsl: ") and "Traceback" not in done.stderr
    assert "root/images: File too large" in done.stderr and done.stdout == ""
    assert list((tmp_path / "root").iterdir()) == []
    assert limited(resource.RLIM_INFINITY, *words, cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_write_refused_in_the_middle_of_a_run_can_be_resumed_to_the_same_bytes(fsl, world, tmp_path):
    words = arguments(world, "--episodes", "400", "--batch", "7")
    done = limited(20_000, *words, "--run-dir", "short", cwd=tmp_path)
    assert done.returncode == Exit.DATA and "short/episodes.jsonl: File too large" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "short" / "summary.json").exists()
    assert (tmp_path / "short" / "episodes.jsonl").stat().st_size == 20_000 and left(tmp_path) == []
    assert fsl(*words, "--run-dir", "short", "--resume")[0] == 0
    assert fsl(*words, "--run-dir", "whole")[0] == 0
    assert digest(tmp_path / "short" / "episodes.jsonl") == digest(tmp_path / "whole" / "episodes.jsonl")


def test_a_disk_full_while_the_summary_is_written_leaves_no_summary(refused, fsl, world, tmp_path, monkeypatch):
    finish = Run.finish

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def finish_on_a_full_disk(run: Run, summary: dict) -> None:
        with pytest.MonkeyPatch.context() as disk:
            disk.setattr(os, "fsync", full)
            finish(run, summary)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", finish_on_a_full_disk)
        refused(Exit.DATA, r"summary\.json: the disk is full", *arguments(world, "--run-dir", "r"))
    assert not (tmp_path / "r" / "summary.json").exists() and left(tmp_path / "r") == []
    assert fsl(*arguments(world, "--run-dir", "r", "--resume"))[0] == 0


# stdout


def started(words: list[str], cwd: Path, **more: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "fewshot_cli", *words], cwd=cwd, stderr=subprocess.PIPE, text=True, **more
    )


def closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("how", ["closed", "pipe", "full"])
def test_a_result_that_cannot_be_printed_is_kept_and_said(world, tmp_path, how):
    words = arguments(world, "--run-dir", "r")
    if how == "closed":
        process = started(words, tmp_path, preexec_fn=lambda: os.close(1))
    else:
        out = closed_pipe() if how == "pipe" else os.open("/dev/full", os.O_WRONLY)
        process = started(words, tmp_path, stdout=out)
        os.close(out)
    _, err = process.communicate(timeout=60)
    assert process.returncode == Exit.DATA
    assert re.search(r"stdout is closed.*the result is kept in r.summary\.json", err)
    assert "Traceback" not in err and "Exception ignored" not in err and "internal fault" not in err
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["episodes"] == 3 and left(tmp_path) == []


@pytest.mark.parametrize("words", [["--help"], ["eval", "--help"], ["--version"], ["list", "recipes"]])
@pytest.mark.parametrize("how", ["closed", "pipe"])
def test_help_and_lists_into_a_closed_pipe_end_quietly(tmp_path, words, how):
    if how == "closed":
        process = started(words, tmp_path, preexec_fn=lambda: os.close(1))
    else:
        out = closed_pipe()
        process = started(words, tmp_path, stdout=out)
        os.close(out)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (Exit.OK, Exit.DATA)
    assert "Traceback" not in err and "Exception ignored" not in err and "internal fault" not in err
    assert len(err.splitlines()) <= 1


def test_a_closed_stderr_does_not_stop_the_work(world, tmp_path):
    words = [sys.executable, "-m", "fewshot_cli", *arguments(world, "--run-dir", "r", "--format", "json")]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(2))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(out)["episodes"] == 3


# Runs


def test_a_run_directory_in_use_is_refused_and_untouched(refused, fsl, world, tmp_path):
    assert fsl(*arguments(world, "--run-dir", "r"))[0] == 0
    before = {p.name: digest(p) for p in (tmp_path / "r").iterdir()}
    refused(
        Exit.DATA,
        r"r: already holds a run; add --resume to continue it or choose another --run-dir",
        *arguments(world, "--run-dir", "r"),
    )
    assert {p.name: digest(p) for p in (tmp_path / "r").iterdir()} == before


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--set", "episode.query=3"], r"recipe\.episode\.query"),
        (["--seed", "9"], r"recipe\.seed"),
        (["--set", "head={name: emd}"], r"recipe\.head\.name"),
        (["--set", "eval.split=val"], r"data, .*recipe\.eval\.split"),
    ],
)
def test_a_changed_recipe_is_not_resumed(refused, fsl, world, tmp_path, more, what):
    assert fsl(*arguments(world, "--run-dir", "r"))[0] == 0
    before = {p.name: digest(p) for p in (tmp_path / "r").iterdir()}
    refused(
        Exit.DATA,
        rf"r: was started with another configuration \(.*{what}",
        *arguments(world, "--run-dir", "r", "--resume", *more),
    )
    assert {p.name: digest(p) for p in (tmp_path / "r").iterdir()} == before


def test_resuming_needs_a_run_and_the_same_weights(refused, fsl, world, tmp_path):
    refused(Exit.DATA, r"there is no run to resume; leave out --resume", *arguments(world, "--resume"))
    assert list(tmp_path.iterdir()) == []
    assert fsl(*arguments(world))[0] == 0
    path = other(tmp_path / "other.safetensors", channels=4, last_pool=False)
    refused(Exit.DATA, r"another configuration \(weights\)", *arguments(world, "--weights", path, "--resume"))


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_run_directory_is_refused(refused, world, tmp_path, text):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text(text)
    refused(Exit.DATA, r"r", *arguments(world, "--run-dir", "r", "--resume"))
    assert (tmp_path / "r" / "config.json").read_text() == text and len(list((tmp_path / "r").iterdir())) == 1


def test_runs_of_a_recipe_with_an_odd_name_are_numbered(fsl, world, tmp_path):
    (tmp_path / "odd[1]*.yaml").write_text(GOOD)
    for number in ("", "-2", "-3"):
        code, _, err = fsl(*arguments(world, "--recipe", "odd[1]*.yaml"))
        assert code == 0, err
        assert (tmp_path / "runs" / "eval" / f"odd[1]*{number}" / "summary.json").exists()


@pytest.mark.parametrize("spoiled", [None, "", "{}\n", "[1]\n", "junk\n"])
def test_comparing_what_is_no_run_is_refused(refused, tmp_path, spoiled):
    for name in "ab":
        (tmp_path / name).mkdir()
        if spoiled is not None:
            (tmp_path / name / "episodes.jsonl").write_text(spoiled)
    sentence = (
        r"no episode in common" if spoiled == "" else r"a.episodes\.jsonl: is not the record of an `fsl eval` run"
    )
    refused(Exit.DATA, sentence, "compare", "a", "b")


@pytest.mark.slow
def test_an_interrupt_says_how_to_go_on_and_resuming_does(fsl, world, tmp_path):
    words = arguments(world, "--episodes", "3000", "--batch", "1", "--run-dir", "r")
    process = started(words, tmp_path, stdout=subprocess.PIPE)
    log, deadline = tmp_path / "r" / "episodes.jsonl", time.monotonic() + 60
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == Exit.INTERRUPTED and out == ""
    assert "Traceback" not in err and "interrupted" in err and "--resume" in err
    assert 0 < log.read_bytes().count(b"\n") < 3000 and not (tmp_path / "r" / "summary.json").exists()
    assert fsl(*words, "--resume")[0] == 0
    assert log.read_bytes().count(b"\n") == 3000


@pytest.mark.parametrize(("accuracy", "code"), [(0, Exit.OK), (100, Exit.GATE)])
def test_a_missed_gate_has_a_code_of_its_own(fsl, world, tmp_path, accuracy, code):
    (tmp_path / "gate.yaml").write_text(GOOD + f"expect: {{accuracy: {accuracy}, tolerance: 1, source: a test}}\n")
    got, out, err = fsl(*arguments(world, "--recipe", "gate.yaml", "--check"))
    assert got == code and "gate" in out and "Traceback" not in err
    assert ("is below 100" in err) == (code == Exit.GATE)
