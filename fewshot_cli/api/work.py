"""What the verbs do, for Python programs: evaluate, train, compare, and recipes opened as models."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_cli.api.results import Comparison, Result, TrainingRun
from fewshot_cli.config import overrides
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.user_images import LooseImages, all_bad_of
from fewshot_cli.errors import FslError, RecipeError
from fewshot_cli.evaluation import model as core
from fewshot_cli.evaluation import pairs
from fewshot_cli.evaluation.episodes import evaluate_episodes
from fewshot_cli.evaluation.plugged import Plugged
from fewshot_cli.evaluation.records import finished_records
from fewshot_cli.evaluation.stats import mean_ci95, paired
from fewshot_cli.runtime import roots, runs
from fewshot_cli.runtime.device import resolve
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.training.log import LOG

PathLike = str | Path
PART = 16  # images that are in memory at once


def recipe_of(recipe: PathLike, settings: Mapping[str, Any] | None, named: Mapping[str, Any]) -> Recipe:
    """A recipe with overrides: `settings` by dotted keys, `named` with two underscores in place of the dots.

    Raises `RecipeError`.
    """
    for key in named:
        section, _, rest = key.partition("_")
        if key not in Recipe.model_fields and section in Recipe.model_fields and not rest.startswith("_"):
            raise RecipeError(f"{key}: a recipe has no such key; for {section}.{rest} write {section}__{rest}")
    both = {**(settings or {}), **{key.replace("__", "."): value for key, value in named.items()}}
    try:
        return load_recipe(str(recipe), [overrides.written(key, value) for key, value in both.items()])
    except RecipeError as error:  # in the words of a program, which has no options
        raise RecipeError(str(error).replace("--set ", "setting ")) from error


def path_of(given: PathLike | None) -> Path | None:
    """A path, of a text or a path; None stays None."""
    return None if given is None else Path(given)


def evaluate(
    recipe: PathLike = "glyphs_5w1s",
    settings: Mapping[str, Any] | None = None,
    *,
    weights: PathLike | None = None,
    backbone: nn.Module | str | Mapping[str, Any] | None = None,
    head: nn.Module | str | Mapping[str, Any] | None = None,
    data_root: PathLike | None = None,
    device: str = "auto",
    run_dir: PathLike | None = None,
    resume: bool = False,
    **overrides: Any,
) -> Result:
    """Accuracy of a recipe on few-shot episodes, as `fsl eval` measures it.

    `settings` and `overrides` change the recipe: `{"episode.shot": 5}`, or `episode__shot=5`. `backbone` and `head` are
    parts by name, or modules of your own: a backbone makes maps [N,d,h,w] of images [N,3,H,W] that are standardised as
    the recipe's `image` says; a head makes logits [E,q,way] of maps [E,way,shot,d,h,w] and [E,q,d,h,w]. Copies of them
    are used, and their features are not cached. With `run_dir` the run is kept there, and `resume` continues it;
    otherwise nothing is left of it. A dataset that a recipe can make itself (`glyphs`) is made.

    Raises `RecipeError`, `DataError` and `FslError` with the sentences of the command line.
    """
    own = {"backbone": backbone, "head": head}
    for kind, part in own.items():
        if not isinstance(part, nn.Module | str | Mapping | None):
            raise FslError(
                f"{kind} must be a name, a mapping of a name and options, or a module such as MyNet(), not {part!r}"
            )
    modules = {kind: part for kind, part in own.items() if isinstance(part, nn.Module)}
    named = {kind: part for kind, part in own.items() if part is not None and kind not in modules}
    loaded = recipe_of(recipe, settings, {**named, **overrides})
    if loaded.eval.protocol != "episodes":
        raise FslError(f"recipe {loaded.name} has protocol {loaded.eval.protocol}, which only `fsl eval` evaluates")
    if resume and (modules or run_dir is None):
        raise FslError("resume continues the run in run_dir, of parts by name; leave it out")
    plugged, given = Plugged(**modules), path_of(weights)
    processes, root = Processes(resolve(device)), roots.data_root(data_root)
    with tempfile.TemporaryDirectory(prefix="fsl-") as folder:
        path = Path(folder, "run") if run_dir is None else Path(run_dir)
        batch = 1 if plugged.head is not None else 0  # a head of one's own poses problems in an order of its own
        summary = evaluate_episodes(loaded, root, path, resume, processes, given, batch, plugged=plugged)
        assert summary is not None  # it has a folder
        kept = None if run_dir is None else path
        shown = {key: value for key, value in summary.items() if key != "run_dir" or kept is not None}
        return Result(shown, finished_records(path), kept)


def compare(first: Result | PathLike, second: Result | PathLike) -> Comparison:
    """Accuracy of `first` minus `second`, results or run folders, paired on the episodes that both have.

    Raises `DataError` where they have none in common, or were evaluated on other images.
    """
    a, b = pairs.accuracies(_side(first), _side(second))
    return Comparison(mean_ci95(a)[0], mean_ci95(b)[0], *paired(a, b), len(a))


def _side(one: Result | PathLike) -> pairs.Side:
    if isinstance(one, Result):
        return pairs.Side(one.episodes, one.summary["hashes"]["data"], str(one))
    return pairs.of_run(Path(one))


def pretrain(
    recipe: PathLike = "glyphs_5w1s",
    settings: Mapping[str, Any] | None = None,
    *,
    data_root: PathLike | None = None,
    device: str = "auto",
    run_dir: PathLike | None = None,
    resume: bool = False,
    **overrides: Any,
) -> TrainingRun:
    """Train backbone and classifier on all base classes, as `fsl pretrain` does; without `run_dir` in
    `runs/pretrain/NAME`.

    `settings` and `overrides` change the recipe as in `evaluate`. Raises as `evaluate`.
    """
    from fewshot_cli.training import pretrain as verb

    loaded = recipe_of(recipe, settings, overrides)
    path = runs.choose(path_of(run_dir), "pretrain", loaded.start, resume)
    summary = verb.pretrain(loaded, roots.data_root(data_root), path, resume, Processes(resolve(device)))
    return _trained(summary, path)


def metatrain(
    recipe: PathLike = "glyphs_5w1s",
    settings: Mapping[str, Any] | None = None,
    *,
    weights: PathLike | None = None,
    data_root: PathLike | None = None,
    device: str = "auto",
    run_dir: PathLike | None = None,
    resume: bool = False,
    **overrides: Any,
) -> TrainingRun:
    """Train the backbone on episodes through the head, as `fsl metatrain` does, from `weights`; without `run_dir` in
    `runs/metatrain/NAME`.

    `settings` and `overrides` change the recipe as in `evaluate`. Raises as `evaluate`.
    """
    from fewshot_cli.training import metatrain as verb

    loaded, given = recipe_of(recipe, settings, overrides), path_of(weights)
    path = runs.choose(path_of(run_dir), "metatrain", loaded.weights or loaded.name, resume)
    return _trained(
        verb.metatrain(loaded, roots.data_root(data_root), path, resume, Processes(resolve(device)), given), path
    )


def _trained(summary: Mapping[str, Any] | None, path: Path) -> TrainingRun:
    assert summary is not None  # it has a folder
    log = sorted(path.rglob(LOG))
    return TrainingRun(Path(summary["weights"]), summary, [r for file in log for r in runs.Run.records(file)], path)


class Model:
    """A recipe opened with its weights: `backbone` and `head` are modules, `recipe` is what they were made of."""

    def __init__(self, opened: core.Model) -> None:
        self._opened = opened
        self.recipe, self.backbone, self.head = opened.recipe, opened.backbone, opened.head

    @classmethod
    def open(
        cls,
        recipe: PathLike = "glyphs_5w1s",
        settings: Mapping[str, Any] | None = None,
        *,
        weights: PathLike | None = None,
        data_root: PathLike | None = None,
        device: str = "auto",
        **overrides: Any,
    ) -> "Model":
        """The model of a recipe; arguments and errors as of `evaluate`."""
        loaded, given = recipe_of(recipe, settings, overrides), path_of(weights)
        return cls(core.Model.open(loaded, roots.data_root(data_root), Processes(resolve(device)), given))

    def embed(self, images: PathLike | Sequence[PathLike]) -> Tensor:
        """Local features [N,d,h,w] of image files, or of all images in folders, in the order of their names.

        Raises `DataError` for what is no image.
        """
        given = [images] if isinstance(images, str | Path) else images
        found = LooseImages([Path(one) for one in given], self.recipe.image)
        with torch.no_grad(), all_bad_of(found):
            return torch.cat([self._opened.features_once(part) for part in found.parts(PART)])

    @torch.no_grad()
    def logits(self, support: Tensor, query: Tensor) -> Tensor:
        """Logits [E,q,way] of features support [E,way,shot,d,h,w] and query [E,q,d,h,w]."""
        return self.head(support, query)

    def __repr__(self) -> str:
        names = self._opened.names
        return f"Model {self.recipe.name}: {names['head']} on {names['backbone']}, weights {self._opened.weights.label}"
