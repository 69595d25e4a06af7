"""Options that several verbs have: one `--format` with the formats a verb supports, and completion of names."""

import json
import re

import pytest

from fewshot_cli.cli import options
from fewshot_cli.runtime.render import Format

SUPPORTED = {
    "eval": "table json md csv junit latex github",
    "table": "table json md csv junit latex",
    "compare": "table json md csv latex",
    "match": "table json csv",
    "profile": "table json md csv",
    "retrieve": "table json md csv",
    "classify": "table json csv",
    "list": "table json",
    "prepare": "table json",
    "doctor": "table json",
    "reproduce": "md json",
}
NEEDED = {
    "compare": ["a", "b"],
    "match": ["-o", "m.png"],
    "list": ["solvers"],
    "prepare": ["glyphs"],
    "classify": ["x.png", "--support", "x"],
    "table": ["deepemd.T1"],
    "reproduce": ["cub"],
}


@pytest.mark.parametrize("verb", SUPPORTED)
def test_help_names_the_formats_that_a_verb_supports(fsl, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = fsl(verb, "--help")
    formats = re.search(r"--format FORMAT +.*?: ([a-z, ]+) or ([a-z]+)", " ".join(out.split()))
    assert code == 0 and [*formats[1].split(", "), formats[2]] == SUPPORTED[verb].split()


@pytest.mark.parametrize("verb", SUPPORTED)
def test_another_format_is_a_usage_error_that_names_them(fsl, tmp_path, verb):
    supported = SUPPORTED[verb].split()
    for form in {*Format, "xml", ""} - set(supported):
        code, out, err = fsl(verb, *NEEDED.get(verb, []), "--format", form)
        assert (
            code == 2 and out == "" and err == f"fsl: --format {form or repr('')}: give {options.one_of(supported)}\n"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_choice_is_written_as_in_a_sentence():
    assert options.one_of("abc") == "a, b or c" and options.one_of(["a"]) == "a"


def test_formats_are_completed():
    declared = options.format_option(Format.table, Format.json)
    assert declared.autocompletion("j") == ["json"] and declared.autocompletion("") == ["table", "json"]


def test_a_supported_format_is_taken(fsl):
    code, out, _ = fsl("list", "solvers", "--format", "json")
    assert code == 0 and json.loads(out)


def test_names_are_completed():
    assert "glyphs_5w1s" in options.recipe_names("glyphs") and "cub_5w1s" not in options.recipe_names("glyphs")
    assert options.names_of("solvers")("op") == ["opencv"]


def test_other_options_as_overrides():
    given = {"dataset.name": "cub", "eval.episodes": None, "seed": 3}
    assert options.as_sets(given) == ['dataset.name="cub"', "seed=3"]
