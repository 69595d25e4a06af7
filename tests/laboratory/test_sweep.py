"""`fsl sweep`: cells as run directories on the same episodes, killed and resumed, failures told, and its table."""

import csv
import io
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from fewshot_cli.evaluation.stats import paired
from fewshot_cli.features import cache
from fewshot_cli.laboratory import memory
from fewshot_cli.runtime.runs import Run

BASE = ("sweep", "--recipe", "glyphs_5w1s", "--episodes", "6")
GRID = ("--grid", "head=emd,prototype,knn", "--grid", "episode.shot=1,2")


def test_every_cell_is_the_evaluation_its_command_names(fsl, glyph_root):
    root = ("--data-root", glyph_root)
    code, out, err = fsl(*BASE, *GRID, *root, "--seeds", "2", "--run-dir", "s", "--format", "json", "-o", "cd.png")
    assert code == 0, err
    result = json.loads(out)
    assert [(r["head"], r["shot"]) for r in result["records"]] == [
        (head, shot) for shot in (1, 2) for head in ("emd", "prototype", "knn")
    ]
    assert Image.open("cd.png").width > 500 and "figure: cd.png" in err
    record = result["records"][4]  # prototype, 2 shots
    assert record["episodes"] == 12 and len(record["run_dirs"]) == len(record["commands"]) == 2
    code, out, err = fsl(*shlex.split(record["commands"][1])[1:], *root, "--format", "json", "--run-dir", "alone")
    assert code == 0, err
    assert Run.records(Path("alone/episodes.jsonl")) == Run.records(Path(record["run_dirs"][1]) / "episodes.jsonl")
    both = [
        [r["accuracy"] for name in row["run_dirs"] for r in Run.records(Path(name) / "episodes.jsonl")]
        for row in (record, result["records"][3])
    ]
    assert record["difference"] == pytest.approx(paired(*both)[0])
    assert record["difference_ci95"] > paired(*both)[1] and 0 <= record["p"] <= 1  # corrected for four differences
    assert "difference" not in result["records"][0] and result["ranks"]["blocks"] == 24
    assert sum(r.get("standing") == "best" for r in result["records"]) == 2


def test_a_killed_sweep_continues_and_ends_with_the_same_table(children, glyph_root, tmp_path):
    words = (*BASE, *GRID, "--data-root", glyph_root, "--format", "csv", "--run-dir")
    whole = children.run(*words, "whole", cwd=tmp_path, check=True)
    stop = {"FSL_STOP_AT": "episodes.jsonl:3"}  # in the third cell
    assert children.run(*words, "killed", cwd=tmp_path, environment=stop).returncode == -9
    assert children.run(*words, "killed", cwd=tmp_path).returncode == 3  # not without --resume
    resumed = children.run(*words, "killed", "--resume", cwd=tmp_path, check=True)
    again = children.run(*words, "killed", "--resume", cwd=tmp_path, check=True)
    tables = [timeless(run.stdout, name) for run, name in ((whole, "whole"), (resumed, "killed"), (again, "killed"))]
    assert len(tables[0]) == 6 and tables[0] == tables[1] == tables[2]
    assert again.stdout == resumed.stdout  # what is finished keeps its times and memory too
    assert (tmp_path / "killed" / "summary.json").exists()


def timeless(text, folder):
    rows = list(csv.DictReader(io.StringIO(text.replace(f"{folder}/cells", "cells"))))
    return [{k: v for k, v in row.items() if "seconds" not in k and k != "memory"} for row in rows]


def test_cells_that_fail_are_told_and_skipped(fsl, glyph_root):
    words = (*BASE, "--recipe", "cub_5w1s_conv64", "--grid", "head=emd,knn", "--data-root", glyph_root)
    code, out, err = fsl(*words, "--run-dir", "s")
    assert code == 1 and "2 of 4 cells could not be evaluated; --resume tries them again" in err
    assert out.count("failed") == 3 and "dataset cub is not prepared" in out and "2.00" in out
    code, out, err = fsl(*words, "--run-dir", "s", "--resume", "--format", "latex")
    assert code == 1 and r"\textbf{" in out and r"cub\_5w1s\_conv64 & emd & cub & failed" in out
    code, out, err = fsl("sweep", "--recipe", "cub_5w1s_conv64", "--grid", "head=emd,knn", "--run-dir", "n")
    assert code == 3 and "no cell could be evaluated: emd: " in err and "failed" in out


def test_a_cell_that_is_out_of_memory_stops_no_other(fsl, glyph_root, monkeypatch):
    from fewshot_cli.laboratory import work

    evaluate = work.evaluate_episodes

    def short(recipe, *rest, **more):
        if recipe.head.name == "emd":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(recipe, *rest, **more)

    monkeypatch.setattr(work, "evaluate_episodes", short)
    words = (*BASE, "--grid", "head=emd,knn", "--data-root", glyph_root, "--run-dir", "runs/sweep/s")
    code, out, err = fsl(*words)
    assert code == 1 and "1 of 2 cells could not be evaluated" in err and "out of memory" in out + err
    assert fsl("runs", "rm", "runs/sweep/s", "--yes")[0] == 0 and not Path("runs/sweep/s").exists()


def test_another_sweep_does_not_continue_this_one(fsl, glyph_root):
    words = (*BASE, "--data-root", glyph_root, "--run-dir", "s")
    assert fsl(*words, "--grid", "head=emd,knn")[0] == 0
    code, _, err = fsl(*words, "--grid", "head=emd,frn", "--resume")
    assert code == 3 and "another configuration" in err


def test_features_are_read_once_for_all_cells_that_share_them(fsl, glyph_root, monkeypatch):
    read = []
    plain = cache._read
    monkeypatch.setattr(cache, "_read", lambda path, count: read.append(path) or plain(path, count))
    grid = ("--grid", "image.size=32,28", "--grid", "head=emd,prototype,knn")
    words = (*BASE, *grid, "--data-root", glyph_root)
    assert fsl(*words, "--run-dir", "first")[0] == 0  # makes what is not there yet
    read.clear()
    assert fsl(*words, "--run-dir", "second")[0] == 0 and len(read) == 2


@pytest.mark.slow  # each job imports torch anew
def test_jobs_of_submitit_give_the_same_table(children, glyph_root, tmp_path):
    words = (*BASE, *GRID, "--data-root", glyph_root, "--format", "csv", "--run-dir")
    alone = children.run(*words, "alone", cwd=tmp_path, check=True)
    shared = children.run(*words, "shared", "--launcher", "local", "--jobs", "2", cwd=tmp_path)
    assert shared.returncode == 0, shared.stderr
    assert timeless(shared.stdout, "shared") == timeless(alone.stdout, "alone")
    assert shared.stderr.count("jobs: ") == 2  # one array for each stage


def test_ranks_are_over_episodes_or_tasks(fsl, glyph_root):
    words = (*BASE, *GRID, "--data-root", glyph_root, "--run-dir", "s")
    code, out, _ = fsl(*words, "--dry-run")
    assert code == 0 and len(out.splitlines()) == 6 and out.startswith("fsl eval --recipe glyphs_5w1s --set")
    code, out, _ = fsl(*words, "--ranks", "tasks", "--baseline", "knn")
    assert code == 0 and "mean over 2 tasks" in out and "difference to knn on the same episodes" in out
    header = out.splitlines()[1] if not out.splitlines()[0].strip() else out.splitlines()[0]
    assert re.search(r"head +shot +accuracy % +difference +p +rank", header)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "say what to sweep"),
        (("--recipe", "glyphs_5w1s", "--ranks", "x"), "say episodes or tasks"),
        (("--recipe", "glyphs_5w1s", "--grid", "head=emd,knn", "--ranks", "tasks"), "all cells are of one task"),
        (("--recipe", "glyphs_5w1s", "--partition", "gpu"), "go with --launcher slurm"),
        (("--recipe", "glyphs_5w1s", "--launcher", "local", "--partition", "gpu"), "leave --partition and --slurm out"),
        (("--recipe", "glyphs_5w1s", "--launcher", "pbs"), "say local or slurm"),
        (("--recipe", "glyphs_5w1s", "--launcher", "slurm", "--slurm", "gres"), "write it as key=value"),
        (("--recipe", "glyphs_5w1s", "-o", "cd.xls"), "end the name in .png, .svg or .pdf"),
        (("--recipe", "glyphs_5w1s", "--baseline", "zzz"), "is no method of this sweep"),
    ],
)
def test_bad_requests_get_a_sentence(fsl, words, sentence):
    code, out, err = fsl("sweep", *words)
    assert code == 2 and sentence in err and not out


def test_peak_memory_is_that_of_the_work(tmp_path):
    cpu = torch.device("cpu")
    small = memory.with_peak(cpu, lambda: 7)
    large = memory.with_peak(cpu, lambda: len(bytearray(200_000_000)))
    assert small[0] == 7 and large[0] == 200_000_000 and 190e6 < large[1] - small[1] < 260e6
    assert memory.with_peak(cpu, lambda: 7, tmp_path / "nothing") == (7, None)


def test_a_job_that_died_has_left_what_it_had_finished(fsl, glyph_root, tmp_path, monkeypatch):
    from fewshot_cli.laboratory import launch
    from fewshot_cli.laboratory.plan import Cell

    words = (*BASE, "--grid", "head=knn,prototype", "--data-root", glyph_root, "--run-dir", "s")
    assert fsl(*words)[0] == 0
    kept = []
    monkeypatch.setattr(launch, "run_cells", lambda folder, cells, *rest: kept.extend(cells) or {})
    names = [path.name for path in sorted(Path("s/cells").iterdir())]
    cells = [Cell(**{**dict.fromkeys(Cell.__dataclass_fields__), "folder": name}) for name in (*names, "never begun")]
    left = launch._left(Path("s"), cells, glyph_root, None, "job 7 failed")
    assert [cell.folder for cell in kept] == names and left["never begun"].failed == "job 7 failed"
