"""Results go to stdout and messages to stderr, also when one of them is closed or other processes print."""

import io
import sys

import pytest

from fewshot_cli.errors import DataError
from fewshot_cli.runtime import console


@pytest.fixture
def second(monkeypatch):
    """This process as the second of several."""
    monkeypatch.setattr(console, "_silent_rank", 0)  # what the test leaves is undone
    console.mute(1)


def test_a_result_and_a_message_take_different_ways(capsys):
    console.emit("a,b")
    console.say("half way")
    console.complain("no such file")
    out = capsys.readouterr()
    assert out.out == "a,b\n" and out.err == "half way\nfsl: no such file\n"


def test_a_message_without_stderr_does_not_reach_stdout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    console.say("half way")
    console.complain("no such file")
    assert capsys.readouterr().out == ""


def test_a_message_into_a_broken_stderr_is_lost_in_silence(monkeypatch, capsys):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    console.say("half way")
    assert capsys.readouterr().out == ""


def test_a_result_without_stdout_says_where_it_is_kept(monkeypatch):
    monkeypatch.setattr(console.os, "dup2", lambda *_: None)  # stdout of the test itself stays
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(DataError, match="stdout is closed.*the result is kept in runs/summary.json"):
        console.emit("a,b", kept="runs/summary.json")
    with pytest.raises(DataError, match="run the command again with stdout open"):
        console.emit("a,b")


def test_the_second_process_prints_only_its_own_errors(second, capsys):
    console.emit("a,b")
    console.say("half way")
    console.complain("all of us failed", shared=True)
    console.complain("I failed")
    out = capsys.readouterr()
    assert out.out == "" and out.err == "fsl: process 1: I failed\n"


def test_the_first_process_prints_an_error_that_all_share(capsys):
    console.complain("all of us failed", shared=True)
    assert capsys.readouterr().err == "fsl: all of us failed\n"


def test_a_bar_off_a_terminal_prints_a_line_every_thirty_seconds(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("embed", 50) as bar:
        for seconds in (1, 29, 2, 20, 11):
            now[0] += seconds
            bar.update(int(now[0]), f"{now[0]:.0f} s")
    assert capsys.readouterr().err == "embed: 132/50 132 s\nembed: 163/50 163 s\n"
