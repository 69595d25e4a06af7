"""What the pages and the shipped sweeps say can be asked for."""

import os
import re
import shlex
from pathlib import Path

import pytest
import torch

from fewshot_cli.laboratory.launch import Launcher, _processes, _result
from fewshot_cli.laboratory.plan import baseline_of, cells_of, varied_tasks
from fewshot_cli.laboratory.schema import load_sweep
from fewshot_cli.laboratory.search import check

ROOT = Path(__file__).parents[2]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


@pytest.mark.parametrize("text", blocks("sweep.md", "yaml"))
def test_the_files_of_the_page_are_sweeps(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text)
    spec = load_sweep(tmp_path / "s.yaml")
    if spec.search is not None:
        assert check(spec, spec.search) == "glyphs_5w1s"
    else:
        cells = cells_of(spec)
        assert len(cells) == 8 and baseline_of(cells, spec.baseline) == "large, emd"


@pytest.mark.parametrize("text", [block for page in ("sweep.md", "cluster.md") for block in blocks(page, "bash")])
def test_the_commands_of_the_pages_are_understood(fsl, monkeypatch, text):
    line = text.splitlines()[-1]
    words = [str(ROOT / word) if word.startswith("benchmarks/") else word for word in shlex.split(line)[1:]]
    code, out, err = fsl(*words, "--dry-run")
    assert code == 0 and out.startswith("fsl eval --recipe"), err


def test_the_table_of_backbones_is_one_sweep():
    spec = load_sweep(ROOT / "benchmarks" / "backbones.yaml")
    cells = cells_of(spec)
    assert len(cells) == 40 and varied_tasks(cells) == ["dataset", "shot"]
    methods = {cell.label for cell in cells}
    assert len(methods) == 10 and baseline_of(cells, spec.baseline) == "conv64, emd"
    lite = [cell.recipe for cell in cells if cell.label.startswith("lite2")]
    assert {recipe.backbone.options.variant for recipe in lite} == {"lite2"}
    assert {recipe.weights for recipe in lite} == {"own"} and {recipe.image.size for recipe in lite} == {160}
    assert {recipe.eval.episodes for recipe in lite} == {600}


def test_options_of_sbatch_may_be_written_as_sbatch_writes_them():
    launcher = Launcher.of("slurm", 3, "gpu", ["--cpus-per-task=8", "gres=gpu:1"], "auto")
    assert launcher.options == {"cpus_per_task": "8", "gres": "gpu:1", "partition": "gpu"}
    assert Launcher.of(None, 2, None, [], "auto") is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not say which cores are a process's")
def test_jobs_on_one_machine_share_out_its_cores():
    cores, threads, taken = os.sched_getaffinity(0), torch.get_num_threads(), []
    try:
        for number in range(2):
            os.sched_setaffinity(0, cores)
            _processes((number, 2), Launcher("local", 2, {}, "cpu"))
            taken.append(os.sched_getaffinity(0))
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
    assert all(taken) and set.union(*taken) == cores
    assert len(cores) == 1 or not taken[0] & taken[1]


def test_a_job_that_died_is_told_in_a_sentence():
    class Job:
        job_id = "7_0"

        class paths:
            stderr = "jobs/7_0.err"

        def result(self):
            raise RuntimeError("many\nlines\nkilled: out of memory")

    assert _result(Job()) == "job 7_0 failed (killed: out of memory); see jobs/7_0.err"
