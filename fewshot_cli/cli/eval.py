"""`fsl eval`: episodes from cached features, an accuracy with its interval, and the gate for CI."""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.errors import Exit, FslError, NotConverged
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format


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
    episodes: Annotated[
        int | None, typer.Option("--episodes", min=1, help="Episodes in place of the recipe's.")
    ] = None,
    format: Annotated[Format, typer.Option("--format", help="Format of the result on stdout.")] = Format.table,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the recipe's expect block; exit 1 when missed.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 4 when a solver did not converge on a problem.")
    ] = False,
    batch: Annotated[
        int, typer.Option("--batch", min=0, help="Episodes in one solver call; 0 chooses. Changes speed only.")
    ] = 0,
    classifier: Annotated[
        Path | None, typer.Option("--classifier", dir_okay=False, help="Classifier of `fsl finetune-sfc`, for --query.")
    ] = None,
    query: Annotated[
        Path | None, typer.Option("--query", help="Folder of class folders to score with --classifier.")
    ] = None,
    device: o.Device = "auto",
    devices: o.Devices = None,
    nodes: o.Nodes = None,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
    print_config: o.PrintConfig = False,
    dry_run: o.DryRun = False,
    debug: o.Debug = False,
) -> None:
    """Evaluate a recipe on few-shot episodes and print accuracy ± 95 % interval."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.evaluation.episodes import evaluate_episodes
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import launch
    from fewshot_cli.runtime.render import render

    elsewhere = [f"dataset.name={dataset}", "dataset.store=null"] if dataset else []
    sets = [*elsewhere, *(sets or []), *([f"eval.episodes={episodes}"] if episodes else [])]
    loaded = load_recipe(recipe, sets, solver, seed)
    if print_config:
        return emit(o.printed(loaded))
    if check and loaded.expect is None:
        raise FslError(
            f"recipe {loaded.name} has no expect block; leave out --check or add expect: to a copy of it "
            f"(fsl recipe cp {loaded.name} .)"
        )
    if check and dataset is not None and dataset != load_recipe(recipe).dataset.name:
        raise FslError(
            f"--check: what {loaded.name} expects was not measured on {dataset}; leave out --check or --dataset"
        )
    if check and classifier is not None:
        raise FslError(
            "--check compares with the recipe's own episodes, not with a classifier on --query; leave one out"
        )
    if (classifier is None) != (query is None):
        raise FslError("--classifier and --query go together: the classifier and the folder of class folders to score")
    root = o.data_root(data_root)
    world = launch(resolve(device), devices, nodes)
    if classifier is not None and world.size > 1:
        raise FslError("a classifier on --query has no episodes to share out; run it in one process")
    path = None if dry_run else world.first(lambda: runs.choose(run_dir, "eval", loaded.name, resume))
    if classifier is not None:
        from fewshot_cli.predict.finetune import score

        summary = score(loaded, classifier, query, path, resume, weights, root, world.device)
    elif loaded.eval.protocol == "classification":
        from fewshot_cli.evaluation.classification import evaluate_classes

        summary = evaluate_classes(loaded, root, path, resume, world, weights, check)
    else:
        summary = evaluate_episodes(loaded, root, path, resume, world, weights, batch, check)
    if summary is None:
        return say("dry run: recipe, data, weights and solver are in order")
    emit(render(summary, format), kept=str(path / runs.SUMMARY))
    if solver is not None and summary.get("solver") is None:
        poser = loaded.head.name if loaded.eval.protocol == "episodes" else loaded.pretrain.classifier.name
        say(f"note: {poser} poses no transport problems here, so --solver changed nothing")
    if strict and summary["not_converged"]:
        raise NotConverged(
            f"the solver did not converge on {summary['not_converged']} problems (--strict); try another --solver"
        )
    if check and not summary["passed"]:
        say(f"fsl: accuracy {summary['accuracy']:.2f} is below {loaded.expect.accuracy} ± {loaded.expect.tolerance}")
        raise typer.Exit(Exit.GATE)
    return None
