"""What the command line does when stdout or stderr is closed, a broken pipe or full."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
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


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Class folders and files whose names a terminal, an encoding or a spreadsheet stumbles over."""
    root = os.fsencode(tmp_path_factory.mktemp("odd"))
    for place, name in enumerate((b"=1+1", b"caf\xe9", b"\x1b[31mred", "\u202egpj.exe寿".encode(), b"new\nline")):
        os.makedirs(folder := root + b"/support/" + name)
        for i in range(2):
            pixels = np.random.default_rng(2 * place + i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(os.fsdecode(folder + b"/%d\xff.png" % i))
    return os.fsdecode(root) + "/support"


def classified(odd, tmp_path, encoding, *more):
    words = ("classify", odd, "--support", odd, "--recipe", "glyphs_5w5s", "--data-root", tmp_path / "data", *more)
    words = [sys.executable, "-m", "fewshot_cli", *map(str, words)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(words, cwd=tmp_path, capture_output=True, env=environment)


@pytest.mark.parametrize(
    ("encoding", "accent"),
    [("cp1252", b"\\u5bff"), ("ascii", b"\\u5bff"), ("latin-1", b"\\u5bff"), ("utf-8:strict", "寿".encode())],
)
def test_what_an_encoding_lacks_is_substituted(odd, tmp_path, encoding, accent):
    done = classified(odd, tmp_path, encoding, "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert accent in done.stdout and b"caf\\udce9" in done.stdout and b",'=1+1" in done.stdout.replace(b'"', b"")
    done = subprocess.run(
        [sys.executable, "-m", "fewshot_cli", "list", "heads"],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0 and (b"----" in done.stdout) == (encoding != "utf-8:strict"), done.stderr


def test_names_do_not_steer_a_terminal(odd, tmp_path):
    table = classified(odd, tmp_path, "utf-8")
    assert table.returncode == 0 and b"\\x1b[31mred" in table.stdout and b"new\\nline" in table.stdout
    broken = os.path.join(os.fsencode(odd), b"\x1b[31mred", b"bad.png")
    with open(broken, "wb") as file:
        file.write(b"no image")
    done = classified(odd, tmp_path, "utf-8")
    os.unlink(broken)
    assert done.returncode == Exit.DATA and b"\\x1b[31mred/bad.png: does not decode" in done.stderr
    names = json.loads(classified(odd, tmp_path, "utf-8", "--format", "json").stdout)["support"]
    assert set(names) == {"=1+1", "caf\udce9", "\x1b[31mred", "\u202egpj.exe寿", "new\nline"}  # whole, for programs
    for said in (table.stdout, done.stderr):
        assert b"\x1b" not in said and "\u202e".encode() not in said
