"""A paper's table whose rows are meta-trained from one pre-training and evaluated on the same episodes."""

from pathlib import Path

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import Recipe
from fewshot_cli.config.stages import deciding
from fewshot_cli.papers.request import Request
from fewshot_cli.papers.schema import MetatrainedColumn, MetatrainedRow, MetatrainedTable
from fewshot_cli.runtime.runs import fingerprint, stage
from fewshot_cli.training.metatrain import metatrain
from fewshot_cli.training.optimise import WEIGHTS
from fewshot_cli.training.pretrain import pretrain
from fewshot_cli.weights import checkpoint


class MetatrainedCells:
    """Rows are options of meta-training, trained in folders beside a table's own, each named by what determines it:
    tables share them, and an interrupted one is continued.

    Training starts from the request's weights, else from a pre-training that rows on one backbone share, which is that
    of the first column's shots. What a row sets has the last word, so that options of a phase that it leaves out do not
    bring it back.
    """

    def __init__(self, table: MetatrainedTable, request: Request, run_dir: Path) -> None:
        self.table, self.request, self.stages = table, request, run_dir.parent
        self._places: dict[tuple[str, int], tuple[Recipe, Path, Path | None]] = {}

    def recipe(self, row: MetatrainedRow, column: MetatrainedColumn) -> Recipe:
        """As `Cells.recipe`."""
        return self._load(row, column.shot, self._sets(row, column))

    def trained(self, row: MetatrainedRow, column: MetatrainedColumn) -> Recipe:
        """The recipe of one row and column, as it is trained."""
        return self._load(row, column.shot, self._sets(row))

    def pretrained(self, row: MetatrainedRow) -> Recipe:
        """The recipe of the pre-training, which rows on one backbone share."""
        return self._load(row, self.table.columns[0].shot, list(self.request.sets))

    def weights(self, row: MetatrainedRow, column: MetatrainedColumn) -> Path:
        """As `Cells.weights`: trained if they are not there yet."""
        recipe, place, start = self._place(row, column)
        root, processes = self.request.root, self.request.processes
        made = stage(processes, place, lambda path, again: metatrain(recipe, root, path, again, processes, start))
        return Path(made["weights"])

    def command(self, row: MetatrainedRow, column: MetatrainedColumn) -> str:
        """As `Cells.command`: what trains and evaluates the row, from the pre-training that it shares."""
        recipe, place, start = self._place(row, column)
        options = {"weights": start, "run-dir": place}
        train = self.request.command("metatrain", recipe.name, self._sets(row), **options)
        test = self.request.command("eval", recipe.name, self._sets(row, column), weights=place / WEIGHTS)
        return f"{train} && {test}"

    def _load(self, row: MetatrainedRow, shot: int, sets: list[str]) -> Recipe:
        name = (row.recipe or self.table.recipe).format(dataset=self.request.dataset, shot=shot)
        return load_recipe(name, sets, self.request.solver, self.request.seed)

    def _sets(self, row: MetatrainedRow, column: MetatrainedColumn | None = None) -> list[str]:
        """The `--set` options of a row, and with a column those of its evaluation too."""
        evaluation = [f"eval.episodes={self.request.episodes}", *column.set] if column is not None else []
        return [*self.request.sets, *(row.set or ()), *evaluation]

    def _place(self, row: MetatrainedRow, column: MetatrainedColumn) -> tuple[Recipe, Path, Path | None]:
        """The recipe that a row is trained by, its folder, and the weights it starts from (None for random ones)."""
        key = row.name, column.shot
        if key not in self._places:
            recipe, start = self.trained(row, column), self.request.weights
            if start is None and recipe.metatrain.start != "none":
                start = self._pretraining(self.pretrained(row))
            started = start and checkpoint.load(start).sha256
            device = self.request.processes.device.type
            name = fingerprint({"recipe": deciding(recipe, "metatrain"), "start": started, "device": device})[:8]
            self._places[key] = recipe, self.stages / f"{recipe.head.name}_{column.shot}shot_{name}", start
        return self._places[key]

    def _pretraining(self, recipe: Recipe) -> Path:
        root, processes = self.request.root, self.request.processes
        name = fingerprint([processes.device.type, deciding(recipe, "pretrain")])[:8]
        place = self.stages / f"pretrain_{recipe.start}_{name}"
        made = stage(processes, place, lambda path, again: pretrain(recipe, root, path, again, processes))
        return Path(made["weights"])
