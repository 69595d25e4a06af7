"""Exit codes and the errors that carry them: one sentence that says what, where, and what to do next."""

from enum import IntEnum


class Exit(IntEnum):
    """The documented exit codes of `fsl`."""

    OK = 0
    GATE = 1  # an accuracy gate was missed, or a solver broke its contract
    USAGE = 2  # command line or recipe
    DATA = 3  # data, checkpoint or disk
    NOT_CONVERGED = 4  # a solver did not converge under --strict
    UNJUDGED = 5  # --check found no expectation for the data at hand
    INTERRUPTED = 130


class FslError(Exception):
    """A fault the user can act on; the command line prints its sentence and exits with `code`."""

    code = Exit.USAGE
    shared = False  # raised by every process of a run, so that the first alone reports it


class RecipeError(FslError):
    """The recipe or an option in it is wrong; the message begins `file:line: key:` where that is known."""


class DataError(FslError):
    """Data, archive, store, weights or disk are not usable."""

    code = Exit.DATA


class NotConverged(FslError):
    """A solver gave up on at least one problem and `--strict` was asked for."""

    code = Exit.NOT_CONVERGED
