"""The Typer app, the one place that turns errors into messages and exit codes, and `--debug` of every verb.

Importing it must stay cheap: no torch, no pydantic.
"""

import atexit
import functools
import inspect
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fewshot_cli.cli import completion, gallery, recipe, runs, weights
from fewshot_cli.cli.calibrate import calibrate
from fewshot_cli.cli.classify import classify
from fewshot_cli.cli.compare import compare
from fewshot_cli.cli.doctor import doctor
from fewshot_cli.cli.eval import evaluate
from fewshot_cli.cli.export import export
from fewshot_cli.cli.features import features
from fewshot_cli.cli.finetune_sfc import finetune_sfc
from fewshot_cli.cli.import_weights import import_weights
from fewshot_cli.cli.init import init
from fewshot_cli.cli.list import list_parts
from fewshot_cli.cli.match import match
from fewshot_cli.cli.metatrain import metatrain
from fewshot_cli.cli.prepare import prepare
from fewshot_cli.cli.pretrain import pretrain
from fewshot_cli.cli.profile import profile
from fewshot_cli.cli.report import report
from fewshot_cli.cli.reproduce import reproduce
from fewshot_cli.cli.retrieve import retrieve
from fewshot_cli.cli.show import show
from fewshot_cli.cli.sweep import sweep
from fewshot_cli.cli.table import table
from fewshot_cli.errors import DataError, Exit, FslError
from fewshot_cli.evaluation.check import Check
from fewshot_cli.runtime.console import complain, emit, say, tolerate_encodings
from fewshot_cli.runtime.files import explain
from fewshot_cli.runtime.shown import shown
from fewshot_cli.version import __version__

VERBS: dict[str, Callable[..., None]] = {
    "init": init,
    "prepare": prepare,
    "import": import_weights,
    "pretrain": pretrain,
    "metatrain": metatrain,
    "finetune-sfc": finetune_sfc,
    "eval": evaluate,
    "profile": profile,
    "features": features,
    "export": export,
    "compare": compare,
    "report": report,
    "classify": classify,
    "calibrate": calibrate,
    "retrieve": retrieve,
    "match": match,
    "reproduce": reproduce,
    "table": table,
    "sweep": sweep,
    "list": list_parts,
    "show": show,
    "doctor": doctor,
}


class Verbs(TyperGroup):
    """The verbs of `fsl`: `--debug`, which the group itself declares, is an option of every one of them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        debug = next(option for option in self.params if option.name == "debug")
        pending = list(self.commands.values())
        while pending:
            command = pending.pop()
            command.params.append(debug)
            pending += getattr(command, "commands", {}).values()


app = typer.Typer(
    name="fsl",
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Few-shot image classification by optimal matching: a recipe in, an accuracy with its interval out.",
    epilog="Results go to stdout, messages and progress to stderr. Exit codes: 0 success, 1 a gate was not met (an "
    "accuracy, or the contract of a solver), 2 usage or recipe, 3 data or checkpoint, 4 a solver did not converge "
    "under --strict, 5 --check has no expectation for this data, 130 interrupted.",
)


def _print_version(given: bool) -> None:
    if given:
        emit(f"fsl {__version__}")
        raise typer.Exit


def _remember_debug(ctx: typer.Context, given: bool) -> None:
    if given and ctx.obj is not None:
        ctx.obj["debug"] = True


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", callback=_remember_debug, expose_value=False, is_eager=True, help="Show tracebacks of errors."
        ),
    ] = False,
) -> None:
    """Few-shot image classification by optimal matching: a recipe in, an accuracy with its interval out."""


def _help(verb: Callable[..., None]) -> str:
    """The docstring of a verb with one line per paragraph, since Typer keeps line breaks."""
    return "\n\n".join(part.replace("\n", " ") for part in (inspect.getdoc(verb) or "").split("\n\n"))


def _at_home(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, whose paths may begin with `~` where no shell has replaced it: after `=`, and in variables.

    A value that looks like an option is the next option, and the value was forgotten: that is a `FslError`.
    """

    def expanded(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(expanded(name, one) for one in value)
        if isinstance(value, str | Path) and str(value).startswith("--"):
            raise FslError(
                f"{value} stands where the value of --{name.replace('_', '-')} should be; give one, or write ./{value} "
                "for a file that is called so"
            )
        return Path(os.path.expanduser(value)) if isinstance(value, Path) else value

    @functools.wraps(verb)
    def run(**given: Any) -> None:
        verb(**{name: expanded(name, value) for name, value in given.items()})

    return run


for _name, _verb in VERBS.items():
    app.command(_name, help=_help(_verb))(_at_home(_verb))
for _command in (c for group in (gallery, recipe, runs, weights) for c in group.app.registered_commands):
    if _command.callback is not None:
        _command.callback = _at_home(_command.callback)
app.add_typer(gallery.app, name="gallery")
app.add_typer(recipe.app, name="recipe")
app.add_typer(runs.app, name="runs")
app.add_typer(weights.app, name="weights")


def main() -> NoReturn:
    """Run the command line; every error becomes one sentence and an exit code, with --debug after its traceback."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job inherits it ignored
        for warning in (signal.SIGTERM, signal.SIGHUP):  # a scheduler's, before it kills; `nohup` ignores one of them
            if signal.getsignal(warning) is not signal.SIG_IGN:
                signal.signal(warning, _interrupt)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        sys.unraisablehook = _dropped
    _fill_closed_streams()
    tolerate_encodings()
    completion.prepare()
    shared = {"debug": False}  # among the contexts of the group and its verbs
    try:
        code = _run(shared)
    except KeyboardInterrupt:
        say("fsl: interrupted; to continue a run, give the same command again, with --resume where it has that option")
        code = Exit.INTERRUPTED
    except (typer.Abort, typer.Exit) as stop:
        code = getattr(stop, "exit_code", Exit.INTERRUPTED)
    except Exception as error:
        code = _report(error, shared["debug"])
    _leave(code)


def _interrupt(number: int, _: object) -> None:
    """End as Ctrl-C does; the same signal once more ends at once, whatever waits in code that Python cannot stop."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def _dropped(fault: Any) -> None:
    """Interrupt again, a moment later, where the interruption came in a callback whose exceptions Python drops."""
    if issubclass(fault.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(fault)


def _turn_deaf() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _run(shared: dict[str, bool]) -> int:
    """Run the verb and return its exit code."""
    try:
        code = app(args=_spelled_out(sys.argv[1:]), standalone_mode=False, obj=shared)
    except SystemExit as stop:  # Typer's own answer to a closed pipe is 1, which here means a missed gate
        code = Exit.DATA if stop.code == 1 else stop.code
    if code == Exit.INTERRUPTED:  # Typer turns Ctrl-C into this code without a word
        raise KeyboardInterrupt
    return code if isinstance(code, int) else Exit.OK


def _spelled_out(words: list[str]) -> list[str]:
    """The command line with the optional value of `fsl eval --check` filled in."""
    return [f"{word}={Check.MEASURED}" if "eval" in words[:2] and word == "--check" else word for word in words]


def _report(error: Exception, debug: bool) -> int:
    """Say what went wrong, with `debug` after the traceback, and return the exit code."""
    if (show := getattr(error, "show", None)) is not None:  # a usage error of Typer's parser prints itself
        show()
        return Exit.USAGE
    if debug:
        say("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, FslError):
        complain(shown(str(error)) if isinstance(error, DataError) else str(error), getattr(error, "shared", False))
        return error.code
    if _is_out_of_memory(error):
        reason = str(error).partition("\n")[0]
        complain(
            f"out of memory{f' ({reason})' if reason else ''}; lower --batch or image.size, take a smaller split, or "
            "in training lower pretrain.batch or metatrain.episodes_per_step"
        )
    elif isinstance(error, OSError) and error.errno:
        complain(explain(error, error.filename or "the operating system"))
    elif _is_lost_process(error):
        complain("another process of this run failed or was killed; its own message says why")
    else:
        complain(f"internal fault, please report it with the output of the same command and --debug: {error!r}")
    return Exit.DATA


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python's or PyTorch's allocator ran out of memory; this does not import PyTorch."""
    said = ("allocate memory", "start new thread", "bad_alloc", "out of memory", "failed to map segment")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error).lower() for words in said)
    )


def _is_lost_process(error: Exception) -> bool:
    """Whether this is a collective operation that another process has left."""
    return type(error).__name__ in ("DistBackendError", "DistNetworkError") or (
        isinstance(error, RuntimeError)
        and any(f"Connection {how} by peer" in str(error) for how in ("closed", "reset"))
    )


def _fill_closed_streams() -> None:
    """Open closed standard streams as null devices, so that no file of a run gets the number that C code prints to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _leave(code: int) -> NoReturn:
    """End with this code; what comes while the interpreter tidies up changes nothing."""
    if threading.current_thread() is threading.main_thread():
        atexit.register(_turn_deaf)
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(int(code))
