"""A paper's table whose rows are meta-trained from one pre-training and evaluated on the same episodes."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_cli import recipe, tables
from fewshot_cli.engine import World
from fewshot_cli.runs import stage
from fewshot_cli.schema import Recipe
from fewshot_cli.training.metatrain import metatrain
from fewshot_cli.training.pretrain import pretrain


@dataclass(frozen=True)
class Request(tables.Request):
    """As for tables of evaluations, but `base` is the dataset and `weights` are pre-trained, in place of a pre-training.

    `template` and `shot` are the table's recipe and its first column's shots, which pre-training is that of. What a row sets has
    the last word, so that options of a phase that it leaves out do not bring it back.
    """

    template: str = ""
    shot: int = 1

    def recipe(self, row: dict[str, Any], column: dict[str, Any]) -> Recipe:
        """The recipe of one row and column, as it is evaluated."""
        return self._load(row, column["shot"], [*self._sets(row, column), *column.get("set", [])])

    def trained(self, row: dict[str, Any], column: dict[str, Any]) -> Recipe:
        """The recipe of one row and column, as it is trained."""
        return self._load(row, column["shot"], [*self.sets, *row["set"]])

    def pretrained(self, row: dict[str, Any]) -> Recipe:
        """The recipe of the pre-training, which rows on one backbone share."""
        return self._load(row, self.shot, list(self.sets))

    def _load(self, row: dict[str, Any], shot: int, sets: list[str]) -> Recipe:
        return recipe.load(self._name(row, shot), sets, self.solver, self.seed)

    def _name(self, row: dict[str, Any], shot: int) -> str:
        return row.get("recipe", self.template).format(dataset=self.base, shot=shot)

    def _sets(self, row: dict[str, Any], column: dict[str, Any]) -> list[str]:
        return [*self.sets, *row["set"], f"eval.episodes={self.episodes}"]

    def command(self, row: dict[str, Any], column: dict[str, Any]) -> str:
        """The `fsl metatrain` command of one row and column."""
        named = {"solver": self.solver, "seed": self.seed, "weights": self.weights}
        words = [word for s in (*self.sets, *row["set"]) for word in ("--set", s)]
        words += [word for k, v in named.items() if v is not None for word in (f"--{k}", str(v))]
        return shlex.join(["fsl", "metatrain", "--recipe", self._name(row, column["shot"]), *words])

    def runner(self, run_dir: Path) -> "Runner":
        """What evaluates a row."""
        return Runner(self, run_dir)


class Runner(tables.Runner):
    """Trains rows in folders below a table's run directory, which continue by themselves, and evaluates them."""

    def __init__(self, ask: Request, run_dir: Path) -> None:
        super().__init__(ask)
        self.run_dir, self.world = run_dir, World(ask.device)

    def weights(self, row: dict[str, Any], column: dict[str, Any]) -> Path:
        """The row's meta-trained weights."""
        ask, start = self.ask, self.ask.weights
        if start is None:
            first = ask.pretrained(row)
            made = stage(self.world, self.run_dir / f"pretrain_{first.start}",
                         lambda path, again: pretrain(first, ask.root, path, again, self.world))  # fmt: skip
            start = Path(made["weights"])
        one = ask.trained(row, column)
        words = "".join(c if c.isalnum() else "_" for c in row["name"]).strip("_")
        made = stage(self.world, self.run_dir / f"{words}_{column['shot']}shot",
                     lambda path, again: metatrain(one, ask.root, path, again, self.world, start))  # fmt: skip
        return Path(made["weights"])


__all__ = ["Request", "Runner"]
