"""What several processes do in tests, started by `Children.together`."""

import os
import signal

import torch

from fewshot_cli.cli import app
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.processes import Processes, launch


def _world() -> Processes:
    return launch(torch.device("cpu"), None, None)


def die() -> None:
    """The command line, in which every process but the first is killed while the first waits for it."""

    def work(**_: object) -> None:
        world = _world()
        if world.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        world.gather(1)

    app.app = work
    app.main()


def disagree() -> None:
    """The second process fails; each prints its rank, the fault that it was told, and what the two then exchange."""
    world = _world()

    def work() -> None:
        if world.rank:
            raise DataError("not on this machine")

    try:
        world.each(work)
    except DataError as fault:
        print(world.rank, fault, world.first(lambda: "asked once"), world.gather(world.rank))
