"""Points at which a process stops itself, so that tests of resuming end a run at a known place and never by chance.

Where the environment variable `FSL_STOP_AT` is `FILE`, `FILE:COUNT` or `FILE:COUNT:SIGNAL`, the process sends itself
the signal (SIGKILL unless named) right after it has written a file of that name for the COUNT-th time:
`FSL_STOP_AT=log.jsonl:2 fsl pretrain …` ends when the second epoch has been logged and its state is not yet saved.
"""

import os
import signal
from collections import Counter
from pathlib import Path

VARIABLE = "FSL_STOP_AT"

_written: Counter[str] = Counter()


def written(path: Path) -> None:
    """Tell that a file of a run was written or grew; ends the process if this is where it is to stop."""
    name, _, rest = os.environ.get(VARIABLE, "").partition(":")
    if path.name != name:
        return
    _written[name] += 1
    count, _, kind = rest.partition(":")
    if _written[name] == int(count or 1):
        os.kill(os.getpid(), signal.Signals[kind or "SIGKILL"])
