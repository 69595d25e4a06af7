"""`fsl table`: rows on shared episodes, published values, differences, rows that cannot run."""

import json
import shlex
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from fewshot_cli import recipe, tables

DATA = ("--recipe", "glyphs_5w1s", "--episodes", "6")


def test_every_row_of_every_table_is_a_recipe():
    count = 0
    for name in tables.names():
        table = tables.find(name)
        assert table["reference"] in [row["name"] for row in table["rows"]]
        for row in table["rows"]:
            for column, printed in enumerate(
                zip(*row.get("published", {"": [None] * len(table["columns"])}).values(), strict=True)
            ):
                assert all(value is None or 0 < value[0] < 100 for value in printed), (name, row["name"], column)
            if "set" in row:
                recipe.load("cub_5w1s", row["set"])
                count += 1
    assert tables.names() == [f"deepemd.{t}" for t in ("T1", "T2", "T3", "Fig4", "grid")] and count > 30


def test_a_row_is_the_evaluation_its_command_names(fsl, glyph_root):
    code, out, err = fsl(
        "table", "deepemd.T2", *DATA, "--rows", "EMD, equal", "--format", "json", "--data-root", glyph_root
    )
    assert code == 0, err
    result = json.loads(out)
    rows = result["records"]
    assert [(r["row"], r["way"]) for r in rows] == [("EMD, equal", 5), ("EMD, equal", 10)]
    assert (rows[0]["published"], rows[0]["published_on"]) == (56.95, "mini_imagenet")
    words = shlex.split(rows[1]["command"])
    assert words[:2] == ["fsl", "eval"]
    code, out, err = fsl(*words[1:], "--format", "json", "--data-root", glyph_root)
    assert code == 0, err
    assert json.loads(out)["accuracy"] == rows[1]["accuracy"]
    code, out, _ = fsl("eval", *DATA, "--set", "episode.way=10", "--format", "json", "--data-root", glyph_root)
    reference = json.loads(out)["accuracy"]
    assert abs(rows[1]["difference"] - (rows[1]["accuracy"] - reference)) < 1e-9


def test_rows_that_cannot_run_say_so_and_stop_no_other(fsl, glyph_root):
    arguments = ("table", "deepemd.Fig4", *DATA, "--rows", "Prototype", "--rows", "Cosine", "--data-root", glyph_root)
    code, out, err = fsl(*arguments, "--format", "json", "--set", "episode.query=105", "--plot", "figures/curve.png")
    assert code == 0, err
    records = json.loads(out)["records"]
    ran = {r["shot"] for r in records if "accuracy" in r}
    assert ran == {1, 5, 10} and all("an episode needs" in r["missing"] for r in records if r["shot"] > 10)
    assert Image.open("figures/curve.png").width > 500
    code, out, _ = fsl("table", "deepemd.T3", *DATA, "--rows", "FEAT", "--rows", "ProtoNet", "--data-root", glyph_root)
    assert code == 0 and "FEAT (ResNet24)" in out and "not part of this package" in out and "60.37" in out
    code, out, _ = fsl("table", "deepemd.T1", *DATA, "--rows", "KNN", "--format", "junit", "--data-root", glyph_root)
    assert code == 0 and ET.fromstring(out).get("tests") == "2"


def test_a_table_is_resumed_and_not_mixed(fsl, glyph_root):
    base = ("table", "deepemd.T1", *DATA, "--data-root", glyph_root, "--run-dir", "run", "--format", "json")
    assert fsl(*base, "--rows", "fusion")[0] == 0
    code, _, err = fsl(*base, "--rows", "fusion", "--rows", "dot", "--resume")
    assert code == 0 and "FC, global, dot" in err and "fusion (DC)" not in err  # already there
    code, _, err = fsl(*base, "--episodes", "7", "--resume")
    assert code == 3 and "another configuration" in err


def test_a_dataset_without_data_or_weights_is_told(fsl, tmp_path):
    code, out, err = fsl("table", "deepemd.T1", "--dataset", "cub", "--episodes", "2", "--rows", "ProtoNet")
    assert code == 3 and "no row of deepemd.T1 could be run" in err and "60.37" in out
    code, _, err = fsl("table", "deepemd.T1", "--dataset", "nothing")
    assert code == 2 and "no recipe nothing_5w1s is installed" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("deepemd.T9", *DATA), "did you mean 'deepemd.T"), (("deepemd.T1",), "give --dataset NAME, or --recipe"),
     (("deepemd.T1", *DATA, "--rows", "zzz"), "no row of deepemd.T1 is called so"),
     (("deepemd.T1", *DATA, "--set", "head=knn"), "the rows of a table set this themselves"),
     (("deepemd.T1", *DATA, "--plot", "x.png"), "take deepemd.Fig4")],
)  # fmt: skip
def test_bad_requests_get_a_sentence(fsl, arguments, sentence):
    code, _, err = fsl("table", *arguments)
    assert code == 2 and sentence in err


def test_a_figures_name_is_refused_before_the_work(fsl, glyph_root):
    code, out, err = fsl("table", "deepemd.Fig4", *DATA, "--plot", "curve.xls", "--data-root", glyph_root)
    assert code == 2 and "end the name in .png, .svg or .pdf" in err and not out and "EMD+SFC" not in err
