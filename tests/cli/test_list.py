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
