"""A paper's table whose rows are meta-trained from one pre-training and evaluated on the same episodes."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import Recipe
from fewshot_cli.config.stages import deciding
from fewshot_cli.papers import evaluated
from fewshot_cli.runtime.processes import World
from fewshot_cli.runtime.runs import fingerprint, stage
from fewshot_cli.training.metatrain import metatrain
from fewshot_cli.training.optimise import WEIGHTS
from fewshot_cli.training.pretrain import pretrain
from fewshot_cli.weights import checkpoint


@dataclass(frozen=True)
class Request(evaluated.Request):
    """As for tables of evaluations, but `base` is the dataset and `weights` are pre-trained, in place of a
    pre-training.

    `template` and `shot` are the table's recipe and its first column's shots, which pre-training is that of. What a row
    sets has the last word, so that options of a phase that it leaves out do not bring it back.
    """

    template: str = ""
    shot: int = 1

    def recipe(self, row: dict[str, Any], column: dict[str, Any]) -> Recipe:
        """The recipe of one row and column, as it is evaluated."""
        return self._load(row, column["shot"], self.sets_of(row, column))

    def trained(self, row: dict[str, Any], column: dict[str, Any]) -> Recipe:
        """The recipe of one row and column, as it is trained."""
        return self._load(row, column["shot"], self.sets_of(row))

    def pretrained(self, row: dict[str, Any]) -> Recipe:
        """The recipe of the pre-training, which rows on one backbone share."""
        return self._load(row, self.shot, list(self.sets))

    def _load(self, row: dict[str, Any], shot: int, sets: list[str]) -> Recipe:
        return load_recipe(self._name(row, shot), sets, self.solver, self.seed)

    def _name(self, row: dict[str, Any], shot: int) -> str:
        return row.get("recipe", self.template).format(dataset=self.base, shot=shot)

    def sets_of(self, row: dict[str, Any], column: dict[str, Any] | None = None) -> list[str]:
        """The `--set` options of a row, and with a column those of its evaluation too."""
        tested = [f"eval.episodes={self.episodes}", *column.get("set", [])] if column is not None else []
        return [*self.sets, *row["set"], *tested]

    def runner(self, run_dir: Path) -> "Runner":
        """What evaluates a row."""
        return Runner(self, run_dir)


class Runner(evaluated.Runner):
    """Trains rows in folders beside a table's own, each named by what decides it, which tables share and which continue
    by themselves; and evaluates them.
    """

    def __init__(self, ask: Request, run_dir: Path) -> None:
        super().__init__(ask)
        self.stages, self.world = run_dir.parent, World(ask.device)
        self._places: dict[tuple[str, int], tuple[Recipe, Path, Path | None]] = {}

    def weights(self, row: dict[str, Any], column: dict[str, Any]) -> Path:
        """The row's meta-trained weights."""
        one, place, start = self._place(row, column)
        made = stage(
            self.world, place, lambda path, again: metatrain(one, self.ask.root, path, again, self.world, start)
        )
        return Path(made["weights"])

    def command(self, row: dict[str, Any], column: dict[str, Any]) -> str:
        """The commands that train and evaluate a row, from the pre-training that it shares."""
        one, place, start = self._place(row, column)
        ask, name = self.ask, one.name
        typed = [
            word
            for k, v in {"solver": ask.solver, "seed": ask.seed}.items()
            if v is not None
            for word in (f"--{k}", str(v))
        ]

        def words(verb: str, sets: list[str], *more: str) -> str:
            return shlex.join(["fsl", verb, "--recipe", name, *(w for s in sets for w in ("--set", s)), *typed, *more])

        given = ["--weights", str(start)] if start is not None else []
        return (
            words("metatrain", ask.sets_of(row), *given, "--run-dir", str(place))
            + " && "
            + words("eval", ask.sets_of(row, column), "--weights", str(place / WEIGHTS))
        )

    def _place(self, row: dict[str, Any], column: dict[str, Any]) -> tuple[Recipe, Path, Path | None]:
        """The recipe that a row is trained by, its folder, and the weights it starts from (None for random ones)."""
        key = row["name"], column["shot"]
        if key not in self._places:
            self._places[key] = self._placed(row, column)
        return self._places[key]

    def _placed(self, row: dict[str, Any], column: dict[str, Any]) -> tuple[Recipe, Path, Path | None]:
        ask, one = self.ask, self.ask.trained(row, column)
        start = ask.weights
        if start is None and one.metatrain.start != "none":
            start = self._pretrained(ask.pretrained(row))
        kept = deciding(one, "metatrain")
        named = fingerprint(
            {"recipe": kept, "start": start and checkpoint.load(start).sha256, "device": ask.device.type}
        )
        return one, self.stages / f"{one.head.name}_{column['shot']}shot_{named[:8]}", start

    def _pretrained(self, first: Recipe) -> Path:
        kept = deciding(first, "pretrain")
        place = self.stages / f"pretrain_{first.start}_{fingerprint([self.ask.device.type, kept])[:8]}"
        made = stage(self.world, place, lambda path, again: pretrain(first, self.ask.root, path, again, self.world))
        return Path(made["weights"])


__all__ = ["Request", "Runner"]
