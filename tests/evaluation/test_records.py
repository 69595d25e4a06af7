"""Records that are read again: a line that is missing, doubled, moved or changed is refused, never counted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.records import checked, finished_records

CHANGES = {
    "a line is missing": lambda lines: lines[:3] + lines[4:],
    "a line is there twice": lambda lines: lines[:4] + lines[3:],
    "all lines are there twice": lambda lines: lines * 2,
    "two lines are exchanged": lambda lines: [lines[1], lines[0], *lines[2:]],
    "more are correct": lambda lines: [_with(lines[0], correct=lambda r: r["correct"] + 1), *lines[1:]],
    "the accuracy is another": lambda lines: [_with(lines[0], accuracy=lambda r: r["accuracy"] + 1e-3), *lines[1:]],
    "the accuracy is enormous": lambda lines: [_with(lines[0], accuracy=lambda r: 1e6), *lines[1:]],
    "the accuracy is a word": lambda lines: [_with(lines[0], accuracy=lambda r: "high"), *lines[1:]],
    "counts are negative": lambda lines: [_with(lines[0], correct=lambda r: -1), *lines[1:]],
    "queries are others": lambda lines: [
        _with(lines[0], correct=lambda r: 1, queries=lambda r: 2, accuracy=lambda r: 50.0),
        *lines[1:],
    ],
    "a number is true": lambda lines: [_with(lines[0], not_converged=lambda r: True), *lines[1:]],
    "classes are none": lambda lines: [_with(lines[0], classes=lambda r: None), *lines[1:]],
    "a line is a list": lambda lines: ["[1]", *lines[1:]],
}


def _with(line: str, **changes) -> str:
    record = json.loads(line)
    return json.dumps(record | {key: change(record) for key, change in changes.items()})


@pytest.fixture(scope="module")
def run(tiny, pretrained, children, tmp_path_factory) -> Path:
    """An evaluation of seven episodes."""
    folder = tmp_path_factory.mktemp("evaluated")
    words = (*tiny.words, "--weights", pretrained / "weights.safetensors", "--run-dir", folder / "run")
    children.run("eval", *words, cwd=folder, check=True)
    return folder / "run"


def test_a_record_of_another_run_is_refused(fsl, tiny, pretrained, run, tmp_path):
    shutil.copytree(run, tmp_path / "mine")
    words = (*tiny.words, "--weights", pretrained / "weights.safetensors", "--seed", "2")
    assert fsl("eval", *words, "--run-dir", "theirs")[0] == 0
    shutil.copy(tmp_path / "theirs" / "episodes.jsonl", tmp_path / "mine" / "episodes.jsonl")
    (tmp_path / "mine" / "summary.json").unlink()
    code, out, err = fsl("eval", *words[:-2], "--run-dir", "mine", "--resume")
    assert code == 3 and out == "" and "episodes.jsonl:1: is of another run" in err


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_record_is_refused_by_resume_and_compare(fsl, tiny, pretrained, run, tmp_path, change):
    shutil.copytree(run, tmp_path / "changed")
    lines = (run / "episodes.jsonl").read_text().splitlines()
    (tmp_path / "changed" / "episodes.jsonl").write_text("\n".join(CHANGES[change](lines)) + "\n")
    (tmp_path / "changed" / "summary.json").unlink()
    words = (*tiny.words, "--weights", pretrained / "weights.safetensors", "--run-dir", "changed", "--resume")
    code, out, err = fsl("eval", *words)
    assert code == 3 and out == "" and "episodes.jsonl" in err and "Traceback" not in err, err
    if change != "queries are others":  # how many there should be is only known with the recipe
        code, _, err = fsl("compare", "changed", run)
        assert code == 3 and "episodes.jsonl:" in err, err


def test_whole_records_are_taken_as_they_are(run):
    records = finished_records(run)
    assert [r["episode"] for r in records] == list(range(7)) and checked(records, run, 15) == records
    with pytest.raises(DataError, match="x:1: has .* of 15 queries"):
        checked(records, Path("x"), 16)


HOLDER = """
import sys
from pathlib import Path
from fewshot_cli.runtime.files import hold
free = hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_that_another_process_uses_is_left_alone(fsl, tiny, pretrained, run, tmp_path):
    shutil.copytree(run, tmp_path / "mine")
    (tmp_path / "mine" / "summary.json").unlink()
    words = (*tiny.words, "--weights", pretrained / "weights.safetensors", "--run-dir", "mine", "--resume")
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "mine")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        before = {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()}
        code, out, err = fsl("eval", *words)
        assert code == 3 and out == "" and f"mine: is in use by process {other.pid} on " in err
        assert {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()} == before
        other.stdin.close()
    assert fsl("eval", *words)[0] == 0 and fsl("eval", *words)[0] == 0  # and this process twice


def test_runs_that_are_started_together_take_names_of_their_own(fsl, tiny, pretrained, tmp_path):
    words = (*tiny.words, "--weights", pretrained / "weights.safetensors", "--format", "json")
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "runs" / "eval" / "tiny")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        code, out, err = fsl("eval", *words)
        assert code == 0 and json.loads(out)["run_dir"] == "runs/eval/tiny-2", err
        other.stdin.close()
    assert json.loads(fsl("eval", *words)[1])["run_dir"] == "runs/eval/tiny-3"
