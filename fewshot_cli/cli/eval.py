"""`fsl eval`: episodes from cached features, an accuracy with its interval, and the gate for CI."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli import output
from fewshot_cli.cli.eval_result import in_format
from fewshot_cli.cli.open_set import tell_unknown
from fewshot_cli.cli.per_class import check_format, print_with_answers
from fewshot_cli.errors import Exit, FslError, NotConverged
from fewshot_cli.evaluation.check import Check, changes, write_expect
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.render import Format

if TYPE_CHECKING:
    from fewshot_cli.config.schema import Recipe
    from fewshot_cli.data.user_images import Taking
    from fewshot_cli.runtime.processes import Processes


def evaluate(
    recipe: o.Recipe = o.DEFAULT_RECIPE,
    weights: o.Weights = None,
    solver: o.Solver = None,
    sets: o.Set = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            autocompletion=o.names_of("datasets"),
            help="Another dataset for the same weights, cropped as the recipe says (dataset.crop).",
        ),
    ] = None,
    episodes: o.Episodes = None,
    format: Annotated[Format, o.format_option(*Format)] = Format.table,
    check: Annotated[
        Check | None,
        typer.Option(
            "--check",
            rich_help_panel=o.RESULT,
            metavar="[=any]",
            help="Compare with what the recipe expects on this data with these weights: exit 1 when that is not met, 5 "
            "when it expects nothing there. --check=any judges any data and weights.",
        ),
    ] = None,
    expect: Annotated[
        Path | None,
        typer.Option(
            "--write-expect",
            rich_help_panel=o.RESULT,
            dir_okay=False,
            help="Write a recipe that expects this result on this data, for `--check` in your CI.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", rich_help_panel=o.RARELY, help="Exit 4 when the solver did not converge on a problem."
        ),
    ] = False,
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            min=0,
            rich_help_panel=o.MACHINE,
            help="Episodes per solver call, 0 to choose; changes the speed only.",
        ),
    ] = 0,
    classifier: Annotated[
        Path | None,
        typer.Option("--classifier", hidden=True, dir_okay=False, help="Old spelling of `fsl classify --classifier`."),
    ] = None,
    query: Annotated[Path | None, typer.Option("--query", hidden=True, help="Images to score --classifier on.")] = None,
    open_set: Annotated[
        int | None, typer.Option("--open-set", hidden=True, min=1, help="Old spelling of `fsl open-set --unknown`.")
    ] = None,
    reject: Annotated[
        float,
        typer.Option("--reject", hidden=True, min=0.001, max=0.9, help="Old spelling of `fsl open-set --reject`."),
    ] = 0.05,
    per_class: Annotated[
        bool, typer.Option("--per-class", rich_help_panel=o.RESULT, help="Also the accuracy of each class.")
    ] = False,
    confusion: Annotated[
        bool,
        typer.Option(
            "--confusion", rich_help_panel=o.RESULT, help="Also which class was taken for which, and how often."
        ),
    ] = False,
    class_level: Annotated[int | None, typer.Option("--class-level", hidden=True, min=1, max=9)] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", hidden=True)] = False,
    device: o.Device = "auto",
    devices: o.Devices = None,
    nodes: o.Nodes = None,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
    print_config: o.PrintConfig = False,
    dry_run: o.DryRun = False,
) -> None:
    """Evaluate a recipe on few-shot episodes and print accuracy ± 95 % interval."""
    from fewshot_cli.config.load import as_sets, load_recipe, overridden
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import launch

    elsewhere = [*o.as_sets({"dataset.name": dataset}), "dataset.store=null"] if dataset else []
    options = as_sets([*elsewhere, *(sets or []), *o.as_sets({"eval.episodes": episodes})], solver, seed)
    loaded = load_recipe(recipe, options)
    if print_config:
        return output.print_recipe(loaded)
    check_format(format, per_class, confusion)
    root = o.data_root(data_root)
    _tell_old_spellings(loaded.name, classifier, query, open_set)
    if open_set is not None:
        others = (check, expect, classifier, run_dir, resume, devices, nodes, dry_run, per_class, confusion)
        return tell_unknown(loaded, open_set, reject, weights, root, resolve(device), format, others)
    taking = o.taking(query, "--query", class_level, skip_bad)
    _refuse_to_write(expect, classifier)
    if check:
        _refuse_check_of_something_else(loaded, recipe, check, classifier)
    processes = launch(resolve(device), devices, nodes)
    path = None if dry_run else processes.first(lambda: runs.choose(run_dir, "eval", loaded.name, resume))
    if path is not None:
        say(f"run directory: {path}")
    if classifier is not None and query is not None:
        given = (classifier, query, path, resume, weights, root)
        summary: Mapping[str, Any] | None = _score(loaded, *given, processes, taking)
    else:
        summary = _evaluate(loaded, path, resume, weights, root, processes, batch, check)
    if summary is None or path is None:
        return say("dry run: recipe, data, weights and solver are in order")
    if expect is not None:
        kept = overridden(options)
        processes.first(lambda: write_expect(expect, loaded, recipe, kept, summary))
    print_with_answers(in_format(summary, format), summary, format, path, per_class, confusion)
    output.warn_not_converged(summary["not_converged"])
    _say_if_unused(solver, loaded, summary)
    return _judge(loaded, summary, strict, check)


def _tell_old_spellings(recipe: str, classifier: Path | None, query: Path | None, open_set: int | None) -> None:
    """Say what is written otherwise now. Raises `FslError` for one of two options that go together."""
    if (classifier is None) != (query is None):
        raise FslError("--classifier and --query go together: the classifier and the folder of class folders to score")
    if classifier is not None:
        o.told_elsewhere("--classifier with --query", f"fsl classify {query} --classifier {classifier} -r {recipe}")
    if open_set is not None:
        o.told_elsewhere("--open-set", f"fsl open-set {recipe} --unknown {open_set}")


def _refuse_check_of_something_else(recipe: "Recipe", name_or_path: str, check: Check, classifier: Path | None) -> None:
    """Refuse `--check` where the recipe expects nothing, or what it expects is not what would be measured."""
    from fewshot_cli.config.load import load_recipe

    if not recipe.expect:
        raise FslError(
            f"recipe {recipe.name} has no expect block; leave out --check or add expect: to a copy of it "
            f"(fsl recipe cp {recipe.name} .)"
        )
    if changed := changes(recipe, load_recipe(name_or_path), check):
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise FslError(
            f"--check: {changed[0]}{more}, so this is not what {recipe.name} expects; leave the option or --check out, "
            "or write an expectation of your own with --write-expect"
        )
    if classifier is not None:
        raise FslError(
            "--check compares with the recipe's own episodes, not with a classifier on --query; leave one out"
        )


def _refuse_to_write(path: Path | None, classifier: Path | None) -> None:
    """Refuse `--write-expect` where it would replace a file or where there are no episodes to expect."""
    if path is None:
        return
    if path.exists():
        raise FslError(f"--write-expect {path}: already exists; give another name")
    if classifier is not None:
        raise FslError("--write-expect writes the result of a recipe's own evaluation; leave it or --classifier out")


def _score(
    recipe: "Recipe",
    classifier: Path,
    query: Path,
    path: Path | None,
    resume: bool,
    weights: Path | None,
    root: Path,
    processes: "Processes",
    taking: "Taking",
) -> Mapping[str, Any] | None:
    """The summary of a fine-tuned classifier on a folder of images."""
    from fewshot_cli.predict.finetune import score

    if processes.size > 1:
        raise FslError("--classifier has no episodes to distribute; leave out --devices and --num-nodes")
    return score(recipe, classifier, query, path, resume, weights, root, processes.device, taking)


def _evaluate(
    recipe: "Recipe",
    path: Path | None,
    resume: bool,
    weights: Path | None,
    root: Path,
    processes: "Processes",
    batch: int,
    check: Check | None,
) -> Mapping[str, Any] | None:
    """The summary of the recipe's evaluation, by its protocol."""
    if recipe.eval.protocol == "classification":
        from fewshot_cli.evaluation.classification import evaluate_classes

        return evaluate_classes(recipe, root, path, resume, processes, weights, check)
    from fewshot_cli.evaluation.episodes import evaluate_episodes

    return evaluate_episodes(recipe, root, path, resume, processes, weights, batch, check)


def _say_if_unused(solver: str | None, recipe: "Recipe", summary: Mapping[str, Any]) -> None:
    """Say that `--solver` changed nothing where no transport problem was posed."""
    if solver is not None and summary.get("solver") is None:
        part = recipe.head.name if recipe.eval.protocol == "episodes" else recipe.pretrain.classifier.name
        say(f"note: {part} poses no transport problems here, so --solver changed nothing")


def _judge(recipe: "Recipe", summary: Mapping[str, Any], strict: bool, check: Check | None) -> None:
    """Leave with the exit code of `--strict` or `--check` where the result is not good enough."""
    if strict and summary["not_converged"]:
        raise NotConverged(
            f"the solver did not converge on {summary['not_converged']} problems (--strict); try another --solver"
        )
    if not check:
        return
    expect = summary["expect"]
    if expect is None:
        say(
            f"fsl: recipe {recipe.name} expects nothing on this data with these weights (split "
            f"{summary['hashes']['data'][:16]}, weights {summary['hashes']['weights'][:16]}), so the accuracy was not "
            "judged; --check=any judges it anyway, --write-expect FILE writes a recipe that expects it"
        )
        raise typer.Exit(Exit.UNJUDGED)
    if not summary["passed"]:
        side = "below" if summary["accuracy"] < expect["accuracy"] else "above"
        say(f"fsl: accuracy {summary['accuracy']:.2f} is {side} {expect['accuracy']} ± {expect['tolerance']}")
        raise typer.Exit(Exit.GATE)
