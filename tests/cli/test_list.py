"""`fsl list` knows every part and recipe, and says of each whether it works here."""

import json

import pytest

from fewshot_cli import registry
from fewshot_cli.config.places import installed_recipes
from fewshot_cli.errors import RecipeError


@pytest.mark.parametrize("kind", ["solvers", "heads", "backbones", "classifiers", "datasets", "recipes"])
def test_list_knows_every_part(fsl, kind, tmp_path):
    code, out, _ = fsl("list", kind, "--format", "json", "--data-root", tmp_path)
    rows = json.loads(out)
    assert code == 0
    known = installed_recipes() if kind == "recipes" else registry.entries(kind)
    assert [row["name"] for row in rows] == list(known)
    if kind == "solvers":
        assert all(row["package"] == "fewshot-cli" for row in rows)
        assert all(row["works here"] == "yes" for row in rows if row["name"] != "qpth")  # its install is optional
    code, table, _ = fsl("list", kind, "--data-root", tmp_path)
    assert code == 0 and rows[0]["name"] in table


def test_a_dataset_says_whether_it_is_prepared(fsl, tmp_path):
    (tmp_path / "data" / "cub").mkdir(parents=True)
    _, out, _ = fsl("list", "datasets", "--format", "json")
    prepared = {row["name"]: row["prepared"] for row in json.loads(out)}
    assert (prepared["cub"], prepared["nabirds"]) == ("yes", "no")
    assert prepared["glyphs"] == "generated on first use"


def test_a_part_that_does_not_import_says_so_and_hides_no_other(fsl, monkeypatch):
    whole = registry.Entry.load

    def load(entry):
        if entry.name == "pot":
            raise RecipeError("pot: does not import")
        return whole(entry)

    monkeypatch.setattr(registry.Entry, "load", load)
    code, out, _ = fsl("list", "solvers", "--format", "json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows["pot"]["works here"] == "no: pot: does not import" and rows["pot"]["devices"] == ""
    assert rows["sinkhorn"]["works here"] == "yes"


@pytest.mark.parametrize(("singular", "plural"), [("solver", "solvers"), ("recipe", "recipes")])
def test_both_words_for_a_kind_are_understood(fsl, singular, plural):
    words = ("--format", "json", *(("--dataset", "glyphs") if singular == "recipe" else ()))
    assert fsl("list", singular, *words) == fsl("list", plural, *words)


def test_recipes_of_a_dataset_say_for_which_weights_are_at_hand(fsl):
    code, out, _ = fsl("list", "recipes", "--dataset", "cub", "--format", "json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and {row["dataset"] for row in rows.values()} == {"cub"}
    assert set(rows) == {name for name in installed_recipes() if name.startswith("cub_")}
    assert rows["cub_5w1s_conv64"]["weights here"] == "shipped" and rows["cub_5w1s_frn"]["weights here"] == "no"
    assert json.loads(fsl("recipe", "ls", "--dataset", "cub", "--format", "json")[1]) == list(rows.values())
    _, out, _ = fsl("recipe", "ls", "--dataset", "glyphs", "--format", "csv")
    assert out.splitlines()[0] == "name,dataset,backbone,head,solver,task,expects,weights here"
    assert [line.partition(",")[0] for line in out.splitlines()[1:]] == sorted(
        name for name in installed_recipes() if name.startswith("glyphs_")
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("recipes", "--dataset", "cubs"), "unknown dataset 'cubs' (did you mean 'cub'?)"),
        (("recipes", "--dataset", "cifar10_1"), "no installed recipe is for it"),
        (("heads", "--dataset", "cub"), "fsl list recipes --dataset NAME"),
        (("parts",), "parts: no such kind; choose one of backbones, classifiers,"),
    ],
)
def test_what_cannot_be_listed_is_refused(fsl, words, sentence):
    code, out, err = fsl("list", *words)
    assert code == 2 and out == "" and sentence in err
