"""What is asked of a paper's table, whatever its kind."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fewshot_cli.runtime.processes import Processes


@dataclass(frozen=True)
class Request:
    """What a table is run with.

    `sets` are `--set` options of every row, `rows` names of rows or parts of names (none: all). A table is run on the
    `dataset`, or by a 1-shot `recipe` in place of the dataset's. `weights` are a file in place of what the rows start
    from or are evaluated with. `seed` draws the episodes of an evaluation; every row of a trained table is trained once
    for each of the `seeds`.
    """

    root: Path
    processes: Processes
    sets: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    dataset: str | None = None
    recipe: str | None = None
    weights: Path | None = None
    solver: str | None = None
    seed: int | None = None
    seeds: tuple[int, ...] = ()
    episodes: int = 600

    def command(self, verb: str, recipe: str, sets: Iterable[str], **options: object) -> str:
        """The `fsl` command of one row: the verb with `--set` options, the request's solver and seed, and others."""
        given = {"solver": self.solver, "seed": self.seed, **options}
        words = [word for text in sets for word in ("--set", text)]
        words += [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
        return shlex.join(["fsl", verb, "--recipe", recipe, *words])
