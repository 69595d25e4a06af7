"""Results go to stdout and messages to stderr, also when one of them is closed or other processes print."""

import io
import json
import sys
import threading

import pytest

from fewshot_cli.errors import DataError
from fewshot_cli.runtime import bars, console


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


@pytest.fixture(autouse=True)
def manners():
    """Each test begins as a command does."""
    console.begin()
    yield console.manners
    console.begin()


def test_quiet_leaves_results_warnings_and_errors(manners, capsys):
    manners.quiet = True
    console.say("half way")
    console.note("colour", "an image is grey")
    console.say("WARNING: the solver did not converge on 3 problems")
    console.complain("no such file")
    console.emit("a,b")
    out = capsys.readouterr()
    assert out.out == "a,b\n"
    assert out.err == "WARNING: the solver did not converge on 3 problems\nfsl: no such file\n"


def test_verbose_adds_details_and_times(manners, monkeypatch, capsys):
    console.detail("features from the cache")
    assert capsys.readouterr().err == ""
    manners.verbose, manners.start = True, 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: 102.34)
    console.detail("features from the cache")
    console.doing("loading PyTorch")
    assert capsys.readouterr().err == "[   2.3 s] features from the cache\n[   2.3 s] loading PyTorch …\n"


def test_a_json_log_has_one_object_a_message(manners, capsys):
    manners.json_log = True
    console.say("half\nway")
    console.say("note: an image is grey")
    console.say("WARNING: three problems")
    console.complain("no such file")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [
        ("info", "half\nway"),
        ("note", "note: an image is grey"),
        ("warning", "WARNING: three problems"),
        ("error", "no such file"),
    ]
    assert all(line["time"].endswith("+00:00") for line in lines)


def test_a_json_log_has_progress_every_two_seconds(manners, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    manners.json_log = True
    with console.progress("embed", 50, "images") as bar:
        for done in (10, 20, 30, 40):
            bar.update(done, "68.7 %")
            now[0] += 1.5
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["done"], line["seconds_left"]) for line in lines] == [(30, 3.0)]
    assert lines[0]["level"] == "progress" and lines[0]["total"] == 50 and lines[0]["note"] == "68.7 %"


def test_a_bar_off_a_terminal_says_what_is_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("embed", 400) as bar:
        for done in (0, 100):
            bar.update(done, "68.7 %")
            now[0] += 31
        bar.update(200, "68.8 %")
    assert capsys.readouterr().err == "embed: 100/400 68.7 % (1:33 left)\nembed: 200/400 68.8 % (1:02 left)\n"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """Make stderr a terminal, without a thread that watches; while a test runs, since pytest changes it before."""

    def make() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(console, "_watcher", threading.current_thread())
        monkeypatch.setattr(console, "_activity", None)
        monkeypatch.setenv("COLUMNS", "40")
        return stream

    return make


def test_what_is_done_stands_on_the_terminal_after_a_moment_until_the_next_message(on_terminal):
    terminal = on_terminal()
    console.doing("loading PyTorch")
    since = console._activity[1]
    console._draw(since + 0.4)
    assert terminal.getvalue() == ""
    console._draw(since + 0.6)
    console._draw(since + 2.1)
    assert terminal.getvalue() == "\r\x1b[2Kloading PyTorch … 1 s\r\x1b[2Kloading PyTorch … 2 s"
    console.say("run directory: r")
    assert terminal.getvalue().endswith("2 s\r\x1b[2Krun directory: r\n")


def test_a_result_and_a_bar_take_the_line_away(on_terminal, capsys):
    terminal = on_terminal()
    console.doing("loading PyTorch")
    console._draw(console._activity[1] + 1)
    console.emit("a,b")
    assert terminal.getvalue().endswith("\r\x1b[2K") and console._activity is None
    console.doing("matching")
    console.hide(1)
    console._draw(console._activity[1] + 9)
    console.hide(-1)
    assert "matching" not in terminal.getvalue()


def test_the_line_is_cut_to_the_terminal(on_terminal):
    terminal = on_terminal()
    console.doing("reading " + "x" * 99)
    console._draw(console._activity[1] + 1)
    assert len(terminal.getvalue().rpartition("\x1b[2K")[2]) == 39


def test_no_line_in_a_program_of_ones_own(on_terminal, manners):
    on_terminal()
    manners.start = 0.0
    console.doing("loading PyTorch")
    assert console._activity is None


@pytest.mark.parametrize("name", ["quiet", "json_log"])
def test_no_line_without_talk(on_terminal, manners, name):
    on_terminal()
    setattr(manners, name, True)
    console.doing("loading PyTorch")
    assert console._activity is None


def test_tables_fit_a_terminal_and_nothing_else(monkeypatch, manners):
    assert console.width() is None
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "66")
    assert console.width() == 66
    manners.wide = True
    assert console.width() is None


def test_rates_and_times_are_written_short():
    assert bars.pace(None, "images", 1) == "" and bars.pace(3.0, "", 1) == ""
    assert bars.pace(10.0, "images", 128) == "1,280 images/s" and bars.pace(0.25, "episodes", 1) == "0.25 episodes/s"
    assert bars._clock(7.4) == "0:07" and bars._clock(3725) == "1:02:05"


def test_a_bar_on_a_terminal_has_rate_time_left_and_the_running_figure(on_terminal, monkeypatch):
    terminal = on_terminal()
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    bar = bars.Bar("glyphs_5w1s", 100, "episodes")
    progress, task = bar._live
    moments = iter(range(1, 1000))
    monkeypatch.setattr(progress, "get_time", lambda: float(next(moments)))
    for done in (0, 20, 40, 60):
        bar.update(done, "68.7 ± 1.2 %")
    progress.refresh()
    bar.close()
    last = terminal.getvalue()
    assert "60/100" in last and "68.7 ± 1.2 %" in last and " left" in last and "episodes/s" in last
