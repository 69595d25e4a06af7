"""A search of options by Optuna: each trial trains or evaluates, and validation classes alone decide."""

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.config import overrides
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import Recipe
from fewshot_cli.config.stages import DECIDES, Stage
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.evaluation.episodes import evaluate_episodes
from fewshot_cli.evaluation.model import Shared
from fewshot_cli.evaluation.results import TrainingRecord
from fewshot_cli.laboratory.plan import command_words, shown
from fewshot_cli.laboratory.schema import RangeSpec, SearchSpec, SweepSpec
from fewshot_cli.registry import did_you_mean
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import guarded
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.render import plus_minus
from fewshot_cli.runtime.run_folders import STUDY, TRIALS
from fewshot_cli.runtime.runs import CONFIG, Run, versions
from fewshot_cli.training.log import LOG
from fewshot_cli.training.metatrain import metatrain
from fewshot_cli.training.pretrain import pretrain
from fewshot_cli.training.watch import watching

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler

STAGES: dict[str, Stage] = {"pretrain": "pretrain", "metatrain": "metatrain", "eval": "episodes"}
FAILED = "failed"  # why a trial failed the last time it was tried
_NOT_OPTIONS = ("dataset", "episode", "eval", "seed")  # what is measured, not what is chosen


def check(spec: SweepSpec, search: SearchSpec) -> str:
    """The recipe that a search is of. Raises `FslError` for what a search cannot have, the test split first of all."""
    for key in ("eval.split", "eval"):
        given = [search.space.get(key), spec.set.get(key)]
        if any(value is not None and "test" in str(value) for value in given):
            raise FslError(
                "search: options are chosen on validation classes, never on the test split; leave eval.split out and "
                "evaluate the options that are found once, with fsl eval"
            )
    if spec.grid or spec.cells or spec.seeds > 1 or len(spec.recipe) != 1:
        raise FslError("search: takes one recipe, and set; leave grid, cells and seeds out")
    stage = STAGES[search.verb]
    for key in search.space:
        section, _, rest = key.partition(".")
        if section not in DECIDES:
            raise FslError(f"search: space: {key}: a recipe has no such key{did_you_mean(section, DECIDES)}")
        if section in _NOT_OPTIONS or rest.startswith("validation"):
            raise FslError(f"search: space: {key}: decides what is measured, not how well; fix it under set")
        if stage not in DECIDES[section]:
            raise FslError(
                f"search: space: {key}: changes nothing of {search.verb}; leave it out or search another verb"
            )
    for key in search.space:
        _check_values(spec.recipe[0], spec, search.space, key)
    return spec.recipe[0]


def _check_values(base: str, spec: SweepSpec, space: dict[str, Any], key: str) -> None:
    """Refuse a value that no trial can have, before the first one runs. Raises `FslError`.

    A key may be an option of a part that the search itself chooses: one of its choices must have that option.
    """
    section, _, rest = key.partition(".")
    chosen = space.get(section) if rest else None
    contexts = [{section: part} for part in chosen] if isinstance(chosen, tuple) else [{}]
    mine = space[key]
    for value in (mine.low, mine.high) if isinstance(mine, RangeSpec) else mine:
        refused = [_refusal(base, spec, {**context, key: value}) for context in contexts]
        if None not in refused:
            raise FslError(f"search: space: {key}: {shown(value)}: {refused[0]}")


def _refusal(base: str, spec: SweepSpec, values: dict[str, Any]) -> FslError | None:
    try:
        recipe_of(base, spec, values)
    except FslError as error:
        return error
    return None


def recipe_of(base: str, spec: SweepSpec, values: dict[str, Any]) -> tuple[Recipe, list[str]]:
    """The recipe of a trial, always with the split `val`, and its settings as `--set` texts."""
    merged = {**spec.set, **values}
    sets = [overrides.written(key, merged[key]) for key in sorted(merged, key=lambda key: key.count("."))]
    return load_recipe(base, [*sets, overrides.written("eval.split", "val")]), sets


def run_search(
    base: str, spec: SweepSpec, search: SearchSpec, folder: Path, root: Path, processes: Processes
) -> dict[str, Any]:
    """Run the trials that are still to be run and return the result as plain data, best first.

    Trials lie in folders of their own, the study in an SQLite file beside them. What a killed search has begun is gone
    on with; it ends as an uninterrupted one does. A trial that fails stays open in the study, and is tried again when
    the search is resumed. Raises `DataError` when Optuna is not installed.
    """
    study = _study(folder, search)
    shared, tried = Shared(), set[int]()
    while (trial := _next(study, search, tried)) is not None:
        tried.add(trial.number)
        values = {key: _suggested(trial, key, space) for key, space in search.space.items()}
        place = folder / TRIALS / f"{trial.number:04}"
        try:
            recipe, _ = recipe_of(base, spec, values)
            best = _run(recipe, search, place, root, processes, trial, shared)
        except FslError as error:
            trial.set_user_attr(FAILED, str(error))
            say(f"trial {trial.number}: failed: {error}")
        except _pruned() as error:
            _tell(study, trial, "PRUNED", str(error))
        else:
            trial.set_user_attr("best", best)
            said = f"validation {plus_minus(best['accuracy'], best['ci95'])} %"
            _tell(study, trial, "COMPLETE", said, best["accuracy"])
    return _result(base, spec, search, folder, study)


def _run(
    recipe: Recipe, search: SearchSpec, place: Path, root: Path, processes: Processes, trial: "Trial", shared: Shared
) -> dict[str, Any]:
    """The best validation of a trial."""
    resume = (place / CONFIG).exists()
    if search.verb == "eval":
        result = evaluate_episodes(recipe, root, place, resume, processes, shared=shared)
        assert result is not None  # it has a run directory
        return {"accuracy": result["accuracy"], "ci95": result["ci95"]}
    train: Callable[..., Any] = pretrain if search.verb == "pretrain" else partial(metatrain, given=None)
    told = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    tell = _reporter(trial, search.prune, told, len(told) if recipe.phases else None)
    if (place / LOG).exists() and not recipe.phases:
        for record in Run.records(place / LOG):
            tell(record)
    with watching(tell):
        summary = train(recipe, root, place, resume, processes)
    if "accuracy" not in summary["best"]:
        raise DataError(f"{place}: {search.verb} validates nothing with this recipe, so there is nothing to search by")
    return summary["best"]


def _reporter(trial: "Trial", prune: bool, told: set[int], count: int | None) -> Callable[[TrainingRecord], None]:
    """Tells a trial of every validation that it was not `told` yet, and ends its training where the pruner says so.

    Validations go by their epochs; those of a training in phases, whose epochs begin anew, are counted on from `count`.
    """

    def tell(record: TrainingRecord) -> None:
        nonlocal count
        if (validation := record.get("validation")) is None:
            return
        count = None if count is None else count + 1
        step = record["epoch"] if count is None else count
        if step not in told:
            trial.report(validation["accuracy"], step)
            told.add(step)
        if prune and trial.should_prune():
            raise _pruned()(f"pruned after epoch {record['epoch']}, validation {validation['accuracy']:.2f} %")

    return tell


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise DataError("a search needs optuna, which is not installed; pip install 'fewshot-cli[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _pruned() -> type[Exception]:
    pruned: type[Exception] = _optuna().TrialPruned
    return pruned


def _study(folder: Path, search: SearchSpec) -> "Study":
    optuna = _optuna()
    with guarded(folder):
        folder.mkdir(parents=True, exist_ok=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5) if search.prune else optuna.pruners.NopPruner()
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / STUDY).resolve()}")
        return optuna.create_study(
            storage=storage, study_name="fsl", direction="maximize", pruner=pruner, load_if_exists=True
        )
    except Exception as error:  # whatever a damaged file makes SQLAlchemy raise
        raise DataError(
            f"{folder / STUDY}: cannot be used ({type(error).__name__}); choose another --run-dir"
        ) from error


def _next(study: "Study", search: SearchSpec, tried: set[int]) -> "Trial | None":
    """An open trial, which a killed search was at or which failed, that was not `tried` yet, else a new one; None when
    all were run.

    The sampler begins anew with each trial, from the seed and the trial's number, so that where a search was
    interrupted changes nothing of what it tries.
    """
    optuna = _optuna()
    running = [
        trial for trial in study.get_trials(deepcopy=False) if not (trial.state.is_finished() or trial.number in tried)
    ]
    number = running[0].number if running else len(study.get_trials(deepcopy=False))
    if number >= search.trials:
        return None
    study.sampler = _sampler(search, number)
    return optuna.trial.Trial(study, running[0]._trial_id) if running else study.ask()


def _sampler(search: SearchSpec, number: int) -> "BaseSampler":
    samplers, seed = _optuna().samplers, search.seed * 1_000_003 + number
    return samplers.RandomSampler(seed) if search.sampler == "random" else samplers.TPESampler(seed=seed % 2**32)


def _suggested(trial: "Trial", key: str, space: RangeSpec | tuple[Any, ...]) -> Any:
    if not isinstance(space, RangeSpec):
        names = {shown(value): value for value in space}
        return names[trial.suggest_categorical(key, list(names))]
    if space.whole:
        step = {"step": int(space.step)} if space.step else {}
        return trial.suggest_int(key, int(space.low), int(space.high), log=space.log, **step)
    return trial.suggest_float(key, space.low, space.high, log=space.log, step=space.step)


def _tell(study: "Study", trial: "Trial", state: str, text: str, value: float | None = None) -> None:
    study.tell(trial, value, state=getattr(_optuna().trial.TrialState, state))
    say(f"trial {trial.number}: {text}")


def _result(base: str, spec: SweepSpec, search: SearchSpec, folder: Path, study: "Study") -> dict[str, Any]:
    records = []
    for trial in study.get_trials(deepcopy=False):
        best = trial.user_attrs.get("best", {})
        failed = {} if trial.state.is_finished() else {"failed": trial.user_attrs[FAILED]}
        values = {key: _kept(space, trial.params.get(key)) for key, space in search.space.items()}
        records.append(
            {
                "trial": trial.number,
                "state": "failed" if failed else trial.state.name.lower(),
                "values": values,
                **({"accuracy": best["accuracy"], "ci95": best["ci95"]} if best else {}),
                **({"epoch": best["epoch"]} if "epoch" in best else {}),
                **failed,
                "validations": len(trial.intermediate_values),
                "run_dir": str(folder / TRIALS / f"{trial.number:04}"),
            }
        )
    records.sort(key=lambda r: -r.get("accuracy", -1.0))
    won = records[0] if "accuracy" in records[0] else None
    return {
        "format": 1,
        "recipe": base,
        "verb": search.verb,
        "split": "val",
        "sampler": search.sampler,
        "seed": search.seed,
        "best": won,
        "set": recipe_of(base, spec, won["values"])[1] if won else None,
        "records": records,
        "versions": {**versions(), "optuna": _optuna().__version__},
        "run_dir": str(folder),
    }


def command(result: dict[str, Any]) -> str:
    """The command line that evaluates, once, what a search has found; after pre-training the next stage."""
    verb = "eval" if result["verb"] != "pretrain" else "metatrain"
    words = command_words(verb, result["recipe"], result["set"])
    weights = ["--weights", f"{result['best']['run_dir']}/weights.safetensors"]
    return shlex.join([*words, *(weights if result["verb"] != "eval" else [])])


def _kept(space: RangeSpec | tuple[Any, ...], value: Any) -> Any:
    """The value of a list that a study keeps by what it is shown as."""
    return value if isinstance(space, RangeSpec) else {shown(one): one for one in space}.get(value)
