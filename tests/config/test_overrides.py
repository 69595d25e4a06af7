"""One parser of KEY=VALUE for every verb that has `--set`, and one sentence for what it refuses."""

import pytest

from fewshot_cli.config import overrides
from fewshot_cli.errors import RecipeError


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("episode.shot=5", "episode.shot", 5),
        ("lr=1e-3", "lr", 0.001),
        (" flip = true ", "flip", True),
        ("name='5'", "name", "5"),
        ("sizes=[1, 2]", "sizes", [1, 2]),
        ("head={name: emd, solver: a=b}", "head", {"name": "emd", "solver": "a=b"}),
        ("url=a=b", "url", "a=b"),
        ("store=null", "store", None),
        ("store=", "store", None),
        ("store=# nothing", "store", None),
    ],
)
def test_a_key_and_a_yaml_value(text, key, value):
    parsed = overrides.parse(text)
    assert parsed == (key, value) and type(parsed.value) is type(value)


@pytest.mark.parametrize("text", ["", "key", "=3", " =3", "key:3"])
def test_what_is_not_key_and_value_is_refused(text):
    with pytest.raises(RecipeError) as refusal:
        overrides.parse(text)
    assert str(refusal.value).startswith(f"--set {text}: write it as key=value")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[1", r"--set a\.b: not valid YAML"),
        ("*x", r"--set a\.b: anchors and aliases are not allowed"),
        ("!!binary aGk=", r"--set a\.b: the tag .*binary is not allowed"),
        ("{k: 1, k: 2}", r"--set a\.b: k: given twice"),
        ("[" * 30 + "]" * 30, r"--set a\.b: nested deeper than"),
    ],
)
def test_a_value_that_is_no_plain_data_is_refused_with_its_key(value, reason):
    with pytest.raises(RecipeError, match=f"^{reason}"):
        overrides.parse(f"a.b={value}")


def test_options_of_a_part_are_collected_and_the_last_one_counts():
    assert overrides.options(["depth=20", "wide=true", "depth=110"]) == {"depth": 110, "wide": True}
    assert overrides.options(None) == {}


@pytest.mark.parametrize(
    "value", [5, 0.1, True, None, "cub", "a: b", "'quoted\"", "[1", "ä=b", {"name": "x"}, [1, "a"]]
)
def test_what_is_written_is_read_back(value):
    assert overrides.parse(overrides.written("dataset.name", value)) == ("dataset.name", value)


@pytest.mark.parametrize(
    "words",
    [
        ("eval",),
        ("prepare", "glyphs"),
        ("show", "backbone", "cifar_resnet"),
        ("profile", "--solver", "pot"),
        ("profile", "--step"),
        ("pretrain",),
    ],
    ids=" ".join,
)
def test_every_verb_refuses_it_with_the_same_sentence(fsl, words):
    code, out, err = fsl(*words, "--set", "depth")
    assert code == 2 and out == ""
    assert err == "fsl: --set depth: write it as key=value, with a value in YAML such as 5, true or [1, 2]\n"


def test_profile_wants_a_measured_solver_before_the_key(fsl):
    for text in ("pott.workers=1", "workers=1", "pot.=1"):
        code, _, err = fsl("profile", "--solver", "pot", "--set", text)
        assert code == 2 and f"--set {text}: write SOLVER.KEY=VALUE with a measured solver, one of pot" in err
