"""Run directories that are in use, damaged or of another configuration, interrupts, and the exit code of a gate."""

import signal
import subprocess
import sys
import time

import pytest
from spoiled import GOOD, arguments, digest, other, started

from fewshot_cli.errors import Exit


def test_a_run_directory_in_use_is_refused_and_untouched(refused, fsl, world, tmp_path):
    assert fsl(*arguments(world, "--run-dir", "r"))[0] == 0
    before = {p.name: digest(p) for p in (tmp_path / "r").iterdir()}
    refused(
        Exit.DATA,
        r"r: already holds a run; add --resume to continue it or choose another --run-dir",
        *arguments(world, "--run-dir", "r"),
    )
    assert {p.name: digest(p) for p in (tmp_path / "r").iterdir()} == before


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--set", "episode.query=3"], r"recipe\.episode\.query"),
        (["--seed", "9"], r"recipe\.seed"),
        (["--set", "head={name: emd}"], r"recipe\.head\.name"),
        (["--set", "eval.split=val"], r"data, .*recipe\.eval\.split"),
    ],
)
def test_a_changed_recipe_is_not_resumed(refused, fsl, world, tmp_path, more, what):
    assert fsl(*arguments(world, "--run-dir", "r"))[0] == 0
    before = {p.name: digest(p) for p in (tmp_path / "r").iterdir()}
    refused(
        Exit.DATA,
        rf"r: was started with another configuration \(.*{what}",
        *arguments(world, "--run-dir", "r", "--resume", *more),
    )
    assert {p.name: digest(p) for p in (tmp_path / "r").iterdir()} == before


def test_resuming_needs_a_run_and_the_same_weights(refused, fsl, world, tmp_path):
    refused(Exit.DATA, r"there is no run to resume; leave out --resume", *arguments(world, "--resume"))
    assert list(tmp_path.iterdir()) == []
    assert fsl(*arguments(world))[0] == 0
    path = other(tmp_path / "other.safetensors", channels=4, last_pool=False)
    refused(Exit.DATA, r"another configuration \(weights\)", *arguments(world, "--weights", path, "--resume"))


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_run_directory_is_refused(refused, world, tmp_path, text):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.json").write_text(text)
    refused(Exit.DATA, r"r", *arguments(world, "--run-dir", "r", "--resume"))
    assert (tmp_path / "r" / "config.json").read_text() == text and len(list((tmp_path / "r").iterdir())) == 1


def test_runs_of_a_recipe_with_an_odd_name_are_numbered(fsl, world, tmp_path):
    (tmp_path / "odd[1]*.yaml").write_text(GOOD)
    for number in ("", "-2", "-3"):
        code, _, err = fsl(*arguments(world, "--recipe", "odd[1]*.yaml"))
        assert code == 0, err
        assert (tmp_path / "runs" / "eval" / f"odd[1]*{number}" / "summary.json").exists()


@pytest.mark.parametrize("spoiled", [None, "", "{}\n", "[1]\n", "junk\n"])
def test_comparing_what_is_no_run_is_refused(refused, tmp_path, spoiled):
    for name in "ab":
        (tmp_path / name).mkdir()
        if spoiled is not None:
            (tmp_path / name / "episodes.jsonl").write_text(spoiled)
    wrong_line = r"a.episodes\.jsonl:1: is (of episode None|no record)"
    sentence = {"": r"no episode in common", "{}\n": wrong_line, "[1]\n": wrong_line}.get(
        spoiled, r"a.episodes\.jsonl: is not the record of an `fsl eval` run"
    )
    refused(Exit.DATA, sentence, "compare", "a", "b")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_says_how_to_go_on_and_resuming_does(fsl, world, tmp_path, number):
    words = arguments(world, "--episodes", "3000", "--batch", "1", "--run-dir", "r")
    # as from a terminal: under nohup the signal would be ignored, as it should be
    usual = {"preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)}
    process = started(words, tmp_path, stdout=subprocess.PIPE, **usual)
    log, deadline = tmp_path / "r" / "episodes.jsonl", time.monotonic() + 60
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == Exit.INTERRUPTED and out == ""
    assert "Traceback" not in err and "interrupted" in err and "--resume" in err
    assert 0 < log.read_bytes().count(b"\n") < 3000 and not (tmp_path / "r" / "summary.json").exists()
    assert fsl(*words, "--resume")[0] == 0
    assert log.read_bytes().count(b"\n") == 3000


def test_an_interrupt_in_a_callback_whose_exceptions_python_drops_is_not_lost(tmp_path):
    code = (
        "import os, signal, time, weakref\n"
        "from fewshot_cli.cli import app\n"
        "class Thing: pass\n"
        "def gone(_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    for _ in range(1000): pass\n"
        "def run(shared):\n"
        "    thing = Thing(); kept = weakref.ref(thing, gone); del thing\n"
        "    print('goes on', flush=True)\n"
        "    time.sleep(600)\n"
        "app._run = run\n"
        "app.main()\n"
    )
    usual = {"preexec_fn": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, **usual)
    assert (done.returncode, done.stdout) == (Exit.INTERRUPTED, "goes on\n"), done.stderr
    assert "Traceback" not in done.stderr and "interrupted" in done.stderr


def test_what_a_killed_process_left_in_a_run_is_gone_when_it_is_resumed(fsl, world, tmp_path):
    words = arguments(world, "--episodes", "3", "--run-dir", "r")
    assert fsl(*words)[0] == 0
    (tmp_path / "r" / ".summary.json.abc.part").write_text("{")
    assert fsl(*words, "--resume")[0] == 0
    assert not list((tmp_path / "r").glob(".*"))


@pytest.mark.parametrize("words", [("--data-root", "--recipe=none"), ("--weights=--seed",), ("--set", "--solver")])
def test_an_option_in_place_of_a_value_is_told(refused, words):
    refused(Exit.USAGE, r"--\S+ stands where the value of --(data-root|weights|sets?) should be", "eval", *words)


@pytest.mark.parametrize(("accuracy", "code"), [(0, Exit.OK), (100, Exit.GATE)])
def test_a_missed_gate_has_a_code_of_its_own(fsl, world, tmp_path, accuracy, code):
    (tmp_path / "gate.yaml").write_text(GOOD + f"expect: {{accuracy: {accuracy}, tolerance: 1, source: a test}}\n")
    got, out, err = fsl(*arguments(world, "--recipe", "gate.yaml", "--check"))
    assert got == code and "gate" in out and "Traceback" not in err
    assert ("is below 100" in err) == (code == Exit.GATE)
