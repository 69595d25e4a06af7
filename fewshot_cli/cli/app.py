"""The Typer app, the one error boundary, and the exit codes. Importing it must stay cheap: no torch, no pydantic."""

import os
import signal
import sys
import threading
from typing import Annotated

import typer

from fewshot_cli.cli import (
    catalog,
    classify,
    compare,
    doctor,
    eval,
    finetune_sfc,
    import_weights,
    match,
    prepare,
    profile,
    recipe,
    reproduce,
    retrieve,
    table,
    train,
)
from fewshot_cli.errors import Exit, FslError
from fewshot_cli.runtime.console import complain, say
from fewshot_cli.version import __version__

app = typer.Typer(
    name="fsl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Few-shot image classification by optimal matching: a recipe in, an accuracy with its interval out.",
    epilog="Exit codes: 0 fine, 1 a gate missed (accuracy, or a solver's contract), 2 usage or "
    "recipe, 3 data or checkpoint, "
    "4 a solver did not converge under --strict, 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fsl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Few-shot image classification by optimal matching: a recipe in, an accuracy with its interval out."""


app.command("prepare")(prepare.prepare)
app.command("import")(import_weights.import_weights)
app.command("pretrain")(train.pretrain)
app.command("metatrain")(train.metatrain)
app.command("finetune-sfc")(finetune_sfc.finetune_sfc)
app.command("eval")(eval.evaluate)
app.command("profile")(profile.profile)
app.command("compare")(compare.compare)
app.command("classify")(classify.classify)
app.command("retrieve")(retrieve.retrieve)
app.command("match")(match.match)
app.command("reproduce")(reproduce.reproduce)
app.command("table")(table.table)
app.command("list")(catalog.list_parts)
app.command("show")(catalog.show)
app.command("doctor")(doctor.doctor)
app.add_typer(recipe.app, name="recipe")


def main() -> None:
    """Run the command line; every fault becomes one sentence and an exit code, a traceback only with --debug."""
    debug = "--debug" in sys.argv
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background job inherits it ignored
    try:
        try:
            code = app(standalone_mode=False)
        except SystemExit as stop:  # Typer's own answer to a closed pipe is 1, which here means a missed gate
            code = Exit.DATA if stop.code == 1 else stop.code
        if code == Exit.INTERRUPTED:  # Typer turns Ctrl-C into this code without a word
            raise KeyboardInterrupt
        _leave(int(code) if isinstance(code, int) else Exit.OK)
    except FslError as fault:
        if debug:
            raise
        complain(str(fault), getattr(fault, "shared", False))
        _leave(fault.code)
    except KeyboardInterrupt:
        say("fsl: interrupted; the same command, with --resume where it has that option, continues a run")
        _leave(Exit.INTERRUPTED)
    except (typer.Abort, typer.Exit) as stop:
        _leave(getattr(stop, "exit_code", Exit.INTERRUPTED))
    except Exception as fault:
        if not debug and _out_of_memory(fault):
            said = str(fault).partition("\n")[0]
            complain(
                f"out of memory ({said}); lower --batch, image.size or the size of the split, or in training "
                "pretrain.batch or metatrain.episodes_per_step"
            )
            _leave(Exit.DATA)
        if not debug and _lost(fault):
            complain("another process of this run failed or was killed; its own message says why")
            _leave(Exit.DATA)
        show = getattr(fault, "show", None)  # a usage error of the command-line parser prints itself
        if debug or show is None:
            if debug:
                raise
            complain(f"internal fault, please report it with the output of the same command and --debug: {fault!r}")
            _leave(Exit.DATA)
        show()
        _leave(Exit.USAGE)


def _out_of_memory(fault: Exception) -> bool:
    """Whether Python's or PyTorch's allocator gave up; PyTorch is not imported for it."""
    return (
        isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError" or "allocate memory" in str(fault)
    )


def _lost(fault: Exception) -> bool:
    """Whether this is a collective operation that another process has left."""
    return type(fault).__name__ in ("DistBackendError", "DistNetworkError") or (
        isinstance(fault, RuntimeError)
        and any(f"Connection {how} by peer" in str(fault) for how in ("closed", "reset"))
    )


def _leave(code: int) -> None:
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(int(code))
