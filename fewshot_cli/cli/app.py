"""The Typer app, the one place that turns errors into messages and exit codes, and `--debug` of every verb.

Importing it must stay cheap: no torch, no pydantic.
"""

import atexit
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from fewshot_cli.cli import completion, gallery, guide, recipe, runs, usage, weights
from fewshot_cli.cli.align import align
from fewshot_cli.cli.calibrate import calibrate
from fewshot_cli.cli.classify import classify
from fewshot_cli.cli.compare import compare
from fewshot_cli.cli.doctor import doctor
from fewshot_cli.cli.eval import evaluate
from fewshot_cli.cli.export import export
from fewshot_cli.cli.features import features
from fewshot_cli.cli.finetune_sfc import finetune_sfc
from fewshot_cli.cli.frame import Verb, Verbs, framed, help_of, root
from fewshot_cli.cli.import_weights import import_weights
from fewshot_cli.cli.init import init
from fewshot_cli.cli.list import list_parts
from fewshot_cli.cli.match import match
from fewshot_cli.cli.metatrain import metatrain
from fewshot_cli.cli.open_set import open_set
from fewshot_cli.cli.prepare import prepare
from fewshot_cli.cli.pretrain import pretrain
from fewshot_cli.cli.profile import profile
from fewshot_cli.cli.proxies import proxies
from fewshot_cli.cli.report import report
from fewshot_cli.cli.reproduce import reproduce
from fewshot_cli.cli.retrieve import retrieve
from fewshot_cli.cli.show import show
from fewshot_cli.cli.sweep import sweep
from fewshot_cli.cli.table import table
from fewshot_cli.errors import DataError, Exit, FslError
from fewshot_cli.evaluation.check import Check
from fewshot_cli.runtime.console import begin, complain, idle, say, tolerate_encodings
from fewshot_cli.runtime.files import explain
from fewshot_cli.runtime.shown import shown

VERBS: dict[str, Callable[..., None]] = {
    "init": init,
    "prepare": prepare,
    "import": import_weights,
    "pretrain": pretrain,
    "metatrain": metatrain,
    "finetune-sfc": finetune_sfc,
    "eval": evaluate,
    "open-set": open_set,
    "profile": profile,
    "features": features,
    "export": export,
    "compare": compare,
    "report": report,
    "classify": classify,
    "calibrate": calibrate,
    "retrieve": retrieve,
    "match": match,
    "align": align,
    "proxies": proxies,
    "reproduce": reproduce,
    "table": table,
    "sweep": sweep,
    "list": list_parts,
    "show": show,
    "doctor": doctor,
}


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


app.callback()(root)
GROUPS = {"gallery": gallery.app, "recipe": recipe.app, "runs": runs.app, "weights": weights.app}
for _name, _verb in VERBS.items():
    app.command(_name, cls=Verb, help=help_of(_verb))(framed(_verb, guide.entry(_name).asks))
for _name, _group in GROUPS.items():
    for _command in _group.registered_commands:
        assert _command.callback is not None
        _command.cls, _command.help = Verb, help_of(_command.callback)
        _words = f"{_name} {_command.name or _command.callback.__name__}"
        _command.callback = framed(_command.callback, guide.entry(_words).asks)
    app.add_typer(_group, name=_name, cls=Verbs)


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
    begin()
    shared = {"debug": False}  # among the contexts of the group and its verbs
    try:
        code = _run(shared)
    except KeyboardInterrupt:
        say(interrupted(sys.argv[1:]))
        code = Exit.INTERRUPTED
    except (typer.Abort, typer.Exit) as stop:
        code = getattr(stop, "exit_code", Exit.INTERRUPTED)
    except Exception as error:
        code = _report(error, shared["debug"])
    _leave(code)


def interrupted(words: list[str]) -> str:
    """What to type after an interruption: the command that continues, or begins anew."""
    runs = sys.modules.get("fewshot_cli.runtime.runs")  # not there before the verb began
    path = runs.resumable() if runs is not None else None
    if path is not None:
        more = [] if "--resume" in words else ["--resume"]
        named = any(word == "--run-dir" or word.startswith("--run-dir=") for word in words)
        more += [] if named else ["--run-dir", str(path)]
        return f"fsl: interrupted; what is done is kept; to continue: {shlex.join(['fsl', *words, *more])}"
    verb = next((word for word in words if not word.startswith("-")), "")
    does = "the same command continues" if guide.entry(verb).again else "to begin again"
    return f"fsl: interrupted; {does}: {shlex.join(['fsl', *words])}"


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
        code = app(args=_spelled_out(sys.argv[1:]), prog_name="fsl", standalone_mode=False, obj=shared)
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
    if getattr(error, "show", None) is not None:  # a usage error of Typer's parser
        if sentence := usage.sentence(error):
            complain(sentence)
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
    idle()
    if threading.current_thread() is threading.main_thread():
        atexit.register(_turn_deaf)
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(int(code))
