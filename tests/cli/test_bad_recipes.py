"""Recipes, overrides, options and commands that are wrong: the documented exit code and one sentence with its place."""

import json

import pytest
import yaml
from spoiled import GOOD, arguments

from fewshot_cli.errors import Exit


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
    "word for a number": (
        changed("way: 3", "way: three"),
        r"bad\.yaml:5: episode\.way: must be a whole number.*'three'",
    ),
    "quoted number": (changed("way: 3", "way: '3'"), r"bad\.yaml:5: episode\.way: must be a whole number"),
    "truth for a number": (changed("way: 3", "way: true"), r"bad\.yaml:5: episode\.way: must be a whole number"),
    "fraction for a number": (changed("way: 3", "way: 2.5"), r"bad\.yaml:5: episode\.way: must be a whole number"),
    "word no for a truth": (
        changed("false", "no"),
        r"bad\.yaml:3: backbone\.last_pool: must be true or false, not 'no'",
    ),
    "list for a section": (changed("{way: 3, shot: 1, query: 2}", "[3, 1, 2]"), r"bad\.yaml:5: episode: "),
    "number for a section": (changed("{way: 3, shot: 1, query: 2}", "3"), r"bad\.yaml:5: episode: .*not 3"),
    "nothing for a section": (
        changed(" {way: 3, shot: 1, query: 2}", ""),
        r"bad\.yaml:5: episode: must be a mapping of keys to values, not null",
    ),
    "number for a part": (changed("{name: prototype}", "3"), r"bad\.yaml:4: head: must be a name"),
    "part without a name": (
        changed("name: conv64, ", ""),
        r"bad\.yaml:3: backbone: must be a name, or a mapping with a name",
    ),
    "number for the dataset": (changed("{name: images}", "3"), r"bad\.yaml:1: dataset: "),
    "missing key": (changed("head: {name: prototype}\n", ""), r"head: is missing"),
    "missing dataset name": (changed("{name: images}", "{crop: raw}"), r"bad\.yaml:1: dataset\.name: is missing"),
    "out of range": (changed("way: 3", "way: 1"), r"bad\.yaml:5: episode\.way: must be at least 2, not 1"),
    "option out of range": (
        changed("channels: 4", "channels: 0"),
        r"bad\.yaml:3: backbone\.channels: must be at least 1, not 0",
    ),
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
    "wrong type": ("episode.shot=lots", r"--set episode\.shot: must be a whole number.*'lots'"),
    "nothing": ("episode.shot=", r"--set episode\.shot: must be a whole number, not null"),
    "out of range": ("episode.shot=0", r"--set episode\.shot: must be at least 1, not 0"),
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
    "no episodes": (["--episodes", "0"], r"--episodes 0: give a whole number of at least 1"),
    "negative seed": (["--seed", "-1"], r"--seed -1: give a whole number of at least 0"),
    "negative batch": (["--batch", "-1"], r"--batch -1: give a whole number of at least 0"),
    "word for a number": (["--episodes", "many"], r"--episodes many: give a whole number of at least 1"),
    "unknown format": (["--format", "xml"], r"--format xml: give table, json, "),
    "unknown device": (["--device", "tpu9"], r"--device tpu9: is no device; use auto, cpu, cuda"),
    "unsupported device": (["--device", "meta"], r"--device meta: only cpu and cuda"),
    "absent device": (["--device", "cuda:99"], r"--device cuda:99: PyTorch sees \d+ CUDA devices"),
    "unknown solver": (["--solver", "opencvv"], r"unknown solver 'opencvv' \(did you mean 'opencv'"),
    "solver that is no word": (["--solver", "[1"], r"unknown solver '\[1'"),
    "unknown option": (["--episode", "3"], r"eval has no option --episode \(did you mean --episodes\?\)"),
    "extra argument": (["more"], r"more and --recipe .* are two recipes; give one of them"),
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
        (["evil"], r"there is no verb evil \(did you mean 'eval'\?\); fsl --help shows all"),
        (["show", "solvr", "pot"], r"solvr: no such kind \(did you mean 'solvers'"),
        (["show", "solver", "pott"], r"unknown solver 'pott' \(did you mean 'pot'"),
        (["list", "everything"], r"everything: no such kind"),
        (["prepare"], r"prepare needs NAME: a dataset of `fsl list datasets`; for example, fsl prepare"),
        (["recipe", "cat", "glyphs"], r"glyphs: no such recipe"),
    ],
)
def test_a_bad_command_is_refused(refused, words, sentence):
    refused(Exit.USAGE, sentence, *words)
