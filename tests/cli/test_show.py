"""`fsl show`: documentation, options and costs of a part, or a whole recipe."""

import json

import pytest
import yaml

from fewshot_cli.config.load import load_recipe


def test_show_gives_docstring_and_option_ranges(fsl):
    code, out, _ = fsl("show", "head", "emd")
    assert code == 0 and "temperature: number > 0" in out and "default 12.5" in out and "Logit" in out
    code, out, _ = fsl("show", "dataset", "cub")
    assert code == 0 and "--from:" in out
    code, out, _ = fsl("show", "backbone", "cifar_resnet", "--set", "depth=110", "--classes", "100")
    assert code == 0 and "1.7338 M parameters with a linear classifier of 100 classes" in out
    assert "32×32: 252.9 M (255.0 M)" in out  # the paper prints 1.73 M and 255 M


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("head", "emd", "--classes", "5"), "are for counting a backbone"),
        (("recipe", "glyphs_5w1s", "--set", "episode.shot=5"), "are for counting a backbone"),
        (("solver", "opencw"), "did you mean 'opencv'"),
        (("solver", "emd"), "emd: is a head, not a solver; write `fsl show head emd`"),
        (("recipe", "emd"), "emd: is a head, not a recipe; write `fsl show head emd`"),
        (("heads", "glyphs_5w1s"), "glyphs_5w1s: is a recipe, not a head; write `fsl show recipe glyphs_5w1s`"),
        (("sovler", "opencv"), "sovler: no such kind (did you mean 'solvers'?); choose one of backbones, classifiers,"),
        (("backbone", "conv64", "--set", "channels=none"), "channels: "),
    ],
)
def test_what_cannot_be_shown_is_refused(fsl, words, sentence):
    code, out, err = fsl("show", *words)
    assert code == 2 and out == "" and sentence in err


def test_a_solver_says_where_it_works_and_a_dataset_where_it_comes_from(fsl):
    _, out, _ = fsl("show", "solvers", "uniform")  # the plural does as well
    assert out.startswith("solver uniform (package fewshot-cli)\n") and "; works here: yes\n" in out
    assert out.endswith(
        "\n\noptions:\n  workers: integer ≥ 0, ≤ 1024, default 0 — threads over the batch; 0 means every core\n"
    )
    _, out, _ = fsl("show", "dataset", "cub")
    assert "\n--from: " in out and "\nlicence: " in out and out.endswith("\n\noptions:\n  none\n")


def test_a_recipe_is_shown_with_every_default_and_reads_back(fsl, tmp_path):
    code, out, _ = fsl("show", "recipe", "glyphs_5w1s")
    assert code == 0 and yaml.safe_load(out)["episode"]["query"] == 15 and "null" not in out
    (tmp_path / "glyphs_5w1s.yaml").write_text(out)
    assert load_recipe("glyphs_5w1s.yaml").resolved() == load_recipe(str(tmp_path / "glyphs_5w1s.yaml")).resolved()


@pytest.mark.parametrize(
    ("kind", "begin", "names"),
    [("head", "e", ["emd"]), ("solvers", "op", ["opencv"]), ("nothing", "e", []), (None, "", [])],
)
def test_names_are_completed_by_their_kind(kind, begin, names):
    from fewshot_cli.cli.show import _names

    class Context:
        params = {"kind": kind}

    assert _names(Context, begin) == names


def test_a_name_of_several_kinds_is_taken_as_asked_for(fsl):
    assert fsl("show", "dataset", "features")[0] == 0
    code, _, err = fsl("show", "solver", "linear")
    assert code == 2 and "linear: is a classifier" in err


def test_a_description_for_scripts(fsl):
    code, out, _ = fsl(
        "show", "backbones", "cifar_resnet", "--set", "depth=110", "--classes", "100", "--format", "json"
    )
    part = json.loads(out)
    assert code == 0 and (part["kind"], part["name"], part["package"]) == ("backbone", "cifar_resnet", "fewshot-cli")
    assert (
        part["parameters"] == 1733812 and part["classes"] == 100 and set(part["multiply_adds"]) == {"32", "84", "224"}
    )
    options = {option["name"]: option for option in part["options"]}
    assert (
        options["depth"]["default"] == 20
        and options["depth"]["type"] == ["integer"]
        and "minimum" in options["depth"]["bounds"]
    )
    _, out, _ = fsl("show", "solver", "uniform", "--format", "json")
    assert json.loads(out)["works_here"] is True and json.loads(out)["devices"] == ["cpu"]
    _, out, _ = fsl("show", "recipe", "glyphs_5w1s", "--format", "json")
    assert json.loads(out) == load_recipe("glyphs_5w1s").resolved()


def test_kinds_are_completed_in_both_numbers():
    from fewshot_cli.cli.show import _kinds

    assert _kinds("sol") == ["solver", "solvers"] and _kinds("solvers") == ["solvers"]
