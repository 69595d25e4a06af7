"""`fsl table`: rows on shared episodes, published values, differences, rows that cannot run."""

import json
import re
import shlex
import xml.etree.ElementTree as ET

import pytest
import torch
from PIL import Image

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.papers import evaluated
from fewshot_cli.papers.catalog import chosen_rows, find_table, table_names
from fewshot_cli.papers.evaluated import EvaluatedCells
from fewshot_cli.papers.request import Request
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.weights import checkpoint
from fewshot_cli.weights.find import find_weights

DATA = ("--recipe", "glyphs_5w1s", "--episodes", "6")


def test_every_row_of_every_table_is_a_recipe():
    count = 0
    for name in (n for n in table_names() if n.startswith("deepemd.")):
        for row in find_table(name).rows:
            if row.set is not None:
                load_recipe("cub_5w1s", list(row.set))
                count += 1
    names = {
        "deepemd": ("T1", "T2", "T3", "Fig4", "grid"),
        "lsc": ("T1", "T2", "T3", "T4", "T5", "T6"),
        "mpw": ("T1", "T2", "T3", "T4", "T5", "Fig2"),
    }
    assert table_names() == [f"{paper}.{table}" for paper, own in names.items() for table in own]
    assert count > 30


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


@pytest.mark.slow
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


def test_a_table_is_resumed_when_what_was_missing_has_come(fsl, glyph_root, tmp_path, monkeypatch):
    shipped = find_weights(load_recipe("glyphs_5w1s"), None).checkpoint.path
    (tmp_path / "mine.yaml").write_text("base: glyphs_5w1s\nweights: not_there\n")
    base = (
        "table",
        "deepemd.T1",
        "--recipe",
        "mine.yaml",
        "--episodes",
        "2",
        "--rows",
        "dot",
        "--data-root",
        glyph_root,
        "--run-dir",
        "run",
    )
    assert fsl(*base)[0] == 3 and not (tmp_path / "run").exists()  # nothing ran, nothing is left
    assert fsl(*base, "--weights", shipped)[0] == 0
    other = checkpoint.load(shipped)
    changed = {k: v * 1.01 if v.is_floating_point() else v for k, v in other.tensors.items()}
    checkpoint.save_tensors(
        tmp_path / "other.safetensors", changed, {k: v for k, v in other.sidecar.items() if k != "sha256"}
    )
    code, _, err = fsl(*base, "--weights", "other.safetensors", "--resume")
    assert code == 3 and "was run on other data or weights" in err
    base = ("table", "deepemd.T1", *DATA, "--rows", "Euclidean", "--data-root", glyph_root, "--run-dir", "part")
    monkeypatch.setattr(registry.solver("pot"), "unavailable_reason", classmethod(lambda _: "it is away"))
    code, out, err = fsl(*base, "--solver", "pot")
    assert code == 0 and "no differences, 5-way 1-shot: DeepEMD was not run: solver pot: it is away" in out, err
    assert "Euclidean" in fsl(*base, "--solver", "pot", "--resume")[1]


def test_rows_are_whole_parts_whatever_the_base_has(tmp_path):
    (tmp_path / "odd.yaml").write_text(
        "base: glyphs_5w1s\nextractor: grid\nhead: {name: emd, norm: cosine, floor: 0.5}\n"
    )
    request = Request(tmp_path, Processes(torch.device("cpu")), recipe=str(tmp_path / "odd.yaml"), episodes=5)
    cells = EvaluatedCells(request)
    for name, rows in (("deepemd.T2", ("EMD, equal", "EMD, CR")), ("deepemd.grid", ("FCN 5×5", "FCN P(5,2)"))):
        table = find_table(name)
        for row in table.rows:
            if row.name in rows:
                made = cells.recipe(row, table.columns[0])
                assert (made.extractor.name, made.head.options.norm, made.head.options.floor) == ("fcn", "center", 1e-3)
    table = find_table("deepemd.T1")
    t1 = {row.name: cells.recipe(row, table.columns[0]) for row in table.rows}
    assert {t1[name].head.options.norm for name in t1 if "local, cosine" in name} == {"cosine"}


def test_a_dataset_without_data_or_weights_is_told(fsl, tmp_path):
    code, out, err = fsl("table", "deepemd.T1", "--dataset", "cub", "--episodes", "2", "--rows", "ProtoNet")
    assert code == 3 and "no row of deepemd.T1 could be run" in err and "60.37" in out
    code, _, err = fsl("table", "deepemd.T1", "--dataset", "nothing")
    assert code == 2 and "no recipe nothing_5w1s is installed" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("deepemd.T9", *DATA), "did you mean 'deepemd.T"),
        (("deepemd.T1",), "give --dataset NAME, or --recipe"),
        (("deepemd.T1", *DATA, "--rows", "zzz"), "no row of deepemd.T1 is called so"),
        (("deepemd.T1", *DATA, "--set", "head=knn"), "the rows of a table set this themselves"),
        (("deepemd.grid", *DATA, "--set", "extractor=grid"), "the rows of a table set this themselves"),
        (("deepemd.T1", *DATA, "--plot", "x.png"), "use deepemd.Fig4"),
    ],
)
def test_bad_requests_get_a_sentence(fsl, arguments, sentence):
    code, _, err = fsl("table", *arguments)
    assert code == 2 and sentence in err


def test_a_figures_name_is_refused_before_the_work(fsl, glyph_root):
    code, out, err = fsl("table", "deepemd.Fig4", *DATA, "--plot", "curve.xls", "--data-root", glyph_root)
    assert code == 2 and "end the name in .png, .svg or .pdf" in err and not out and "EMD+SFC" not in err


def test_a_word_names_a_row_or_else_all_that_hold_it():
    table = find_table("lsc.T3")

    def chosen(*words):
        return [row.name for row in chosen_rows(table.name, table.rows, words)]

    assert chosen("lsc") == ["LSC"] and chosen("LSC+", "FOE") == ["FOE", "LSC+SSM", "FOE+LSC+SSM"]
    assert len(chosen()) == 6


def test_latex_sets_off_the_best_of_each_task_and_what_ties_with_it(fsl, glyph_root):
    rows = ("--rows", "EMD, CR", "--rows", "EMD, equal")
    code, out, err = fsl("table", "deepemd.T2", *DATA, *rows, "--data-root", glyph_root, "--format", "latex")
    assert code == 0, err
    lines = [line for line in out.splitlines() if "-way" in line and not line.startswith("%")]
    assert len(lines) == 4 and sum("textbf" in line for line in lines) == 2
    assert out.count(r"\begin{tabular}{") == out.count(r"\end{tabular}") == 1
    code, out, _ = fsl("table", "deepemd.T2", *DATA, *rows, "--data-root", glyph_root, "--format", "json")
    best = {}
    for r in json.loads(out)["records"]:
        best[r["way"]] = max(best.get(r["way"], 0), r["accuracy"])
        assert r.get("standing") in ("best", "tied", None)
    assert all((r["accuracy"] == best[r["way"]]) >= (r.get("standing") == "best") for r in json.loads(out)["records"])


def test_an_interrupted_table_prints_the_rows_that_are_finished(fsl, monkeypatch, glyph_root):
    begun = []

    def evaluate(self, row, column):
        begun.append(row.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return {"accuracies": [50.0, 60.0], "seconds": 1.0}

    monkeypatch.setattr(evaluated._Evaluator, "__call__", evaluate)
    words = ("table", "deepemd.T2", "--recipe", "glyphs_5w1s", "--data-root", glyph_root)
    code, out, err = fsl(*words)
    assert code == 130 and out.count("55.00 ± ") == 3  # two rows, and the sentence
    assert re.search(r"not run: .*: interrupted", out) and begun[2] in out
    assert f"deepemd.T2, row 3 of 12: {begun[2]}, 5-way 1-shot" in err
    assert "to continue: fsl table deepemd.T2" in err and "--resume --run-dir runs/table/deepemd.T2-" in err
    monkeypatch.setattr(evaluated._Evaluator, "__call__", lambda *_: {"accuracies": [50.0, 60.0], "seconds": 1.0})
    code, out, err = fsl(*words, "--resume")
    assert code == 0 and "row 1 of 10" in err and "interrupted" not in out
