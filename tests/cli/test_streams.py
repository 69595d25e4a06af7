"""What the command line does when stdout or stderr is closed, a broken pipe or full."""

import json
import os
import re
import subprocess
import sys

import pytest
from spoiled import arguments, left, started

from fewshot_cli.errors import Exit


def closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("how", ["closed", "pipe", "full"])
def test_a_result_that_cannot_be_printed_is_kept_and_said(world, tmp_path, how):
    words = arguments(world, "--run-dir", "r")
    if how == "closed":
        process = started(words, tmp_path, preexec_fn=lambda: os.close(1))
    else:
        out = closed_pipe() if how == "pipe" else os.open("/dev/full", os.O_WRONLY)
        process = started(words, tmp_path, stdout=out)
        os.close(out)
    _, err = process.communicate(timeout=60)
    assert process.returncode == Exit.DATA
    why = "stdout leads to a disk that is full" if how == "full" else "stdout is closed"
    assert re.search(rf"{why}.*the result is kept in r.summary\.json", err)
    assert "Traceback" not in err and "Exception ignored" not in err and "internal fault" not in err
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["episodes"] == 3 and left(tmp_path) == []


@pytest.mark.parametrize("words", [["--help"], ["eval", "--help"], ["--version"], ["list", "recipes"]])
@pytest.mark.parametrize("how", ["closed", "pipe"])
def test_help_and_lists_into_a_closed_pipe_end_quietly(tmp_path, words, how):
    if how == "closed":
        process = started(words, tmp_path, preexec_fn=lambda: os.close(1))
    else:
        out = closed_pipe()
        process = started(words, tmp_path, stdout=out)
        os.close(out)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (Exit.OK, Exit.DATA)
    assert "Traceback" not in err and "Exception ignored" not in err and "internal fault" not in err
    assert len(err.splitlines()) <= 1


def test_a_closed_stderr_does_not_stop_the_work(world, tmp_path):
    words = [sys.executable, "-m", "fewshot_cli", *arguments(world, "--run-dir", "r", "--format", "json")]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(2))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(out)["episodes"] == 3
