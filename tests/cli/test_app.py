"""The frame around the verbs: `--debug` everywhere, exit codes, and short commands."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fewshot_cli import cli
from fewshot_cli.cli import app
from fewshot_cli.errors import DataError, NotConverged, RecipeError

SUBVERBS = [("recipe", "cat"), ("recipe", "cp"), ("recipe", "check")]


@pytest.mark.parametrize("words", [(), *((verb,) for verb in app.VERBS), ("recipe",), *SUBVERBS], ids=" ".join)
def test_every_verb_has_debug_once(fsl, words):
    code, out, _ = fsl(*words, "--help-all")
    assert code == 0 and out.count("--debug") == 1


def test_no_verb_declares_debug_itself():
    assert not [name for name, verb in app.VERBS.items() if "debug" in inspect.signature(verb).parameters]


@pytest.fixture
def failing(monkeypatch):
    """Give `fsl` a verb that fails in a given way, also as the verb of a group."""

    def make(error):
        commands, group = typer.Typer(cls=app.Verbs, pretty_exceptions_enable=False), typer.Typer()
        commands.callback()(app.root)

        @commands.command()
        @group.command()
        def fail():
            raise error

        @group.command()
        def other():
            pass

        commands.add_typer(group, name="group")
        monkeypatch.setattr(app, "app", commands)

    return make


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("bad.yaml:3: no"), 2),
        (DataError("no data"), 3),
        (NotConverged("not converged"), 4),
        (ZeroDivisionError("a fault of ours"), 3),
        (typer.Exit(1), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
@pytest.mark.parametrize(
    "words",
    [("fail",), ("fail", "--debug"), ("--debug", "fail"), ("group", "--debug", "fail"), ("group", "fail", "--debug")],
    ids=" ".join,
)
def test_the_exit_code_is_that_of_the_error_and_only_debug_shows_a_traceback(fsl, failing, error, code, words):
    failing(error)
    got, out, err = fsl(*words)
    assert got == code and out == ""
    traced = "--debug" in words and isinstance(error, Exception) and not isinstance(error, typer.Exit)
    assert err.startswith("Traceback") == traced and ("in fail\n" in err) == traced
    if isinstance(error, Exception) and not isinstance(error, typer.Exit):
        assert err.splitlines()[-1].startswith("fsl: ") and str(error) in err.splitlines()[-1]


def test_a_usage_error_is_one_with_debug_too(fsl):
    code, out, err = fsl("eval", "--debug", "--episodes", "none")
    assert code == 2 and out == "" and "--episodes" in err and "Traceback" not in err


def test_debug_as_the_value_of_an_option_is_not_debug(fsl, failing):
    code, _, err = fsl("eval", "--recipe=--debug")
    assert code == 2 and "--debug stands where the value of --recipe should be" in err and "Traceback" not in err


def test_help_says_where_results_and_messages_go(fsl):
    out = " ".join(fsl("--help")[1].split())
    assert "Results go to stdout, messages and progress to stderr." in out and "130 interrupted" in out


PROBE = """\
import os, sys
from fewshot_cli import cli
from fewshot_cli.cli import app
def work(**_):
    with open("data.csv", "wb") as file:
        os.write(1, b"out"), os.write(2, b"err")  # as code in C prints
app.app = work
app.main()
"""


@pytest.mark.parametrize("closed", [(2,), (1,), (0, 1, 2)])
def test_what_c_code_prints_to_a_closed_stream_reaches_no_file(tmp_path, closed):
    environment = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2])}
    command = [sys.executable, "-c", PROBE]
    subprocess.run(
        command, cwd=tmp_path, env=environment, preexec_fn=lambda: [os.close(number) for number in closed], check=True
    )
    assert (tmp_path / "data.csv").read_bytes() == b""


def test_functions_of_verbs_are_short():
    """Parse, call, print: fewer than 40 lines after the signature and the docstring."""
    checked = 0
    for file in Path(cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                checked += 1
                assert lines < 40, f"{file.name}: {node.name} has {lines} lines"
    assert checked > 50
