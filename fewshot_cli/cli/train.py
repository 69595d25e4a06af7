"""`fsl pretrain` and `fsl metatrain`."""

import json

from fewshot_cli.cli import options as o
from fewshot_cli.runtime.console import emit, say


def pretrain(
    recipe: o.Recipe = o.DEFAULT_RECIPE,
    sets: o.Set = None,
    solver: o.Solver = None,
    device: o.Device = "auto",
    devices: o.Devices = None,
    nodes: o.Nodes = None,
    precision: o.Precision = None,
    board: o.Board = False,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
    print_config: o.PrintConfig = False,
    dry_run: o.DryRun = False,
    debug: o.Debug = False,
) -> None:
    """Train backbone and classifier by cross-entropy over all base classes, validated by few-shot episodes."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.data.prepare import open_dataset
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import World, launch
    from fewshot_cli.training.pretrain import pretrain as work

    loaded = load_recipe(recipe, o.with_precision(sets, "pretrain", precision), solver, seed)
    if print_config:
        return emit(o.printed(loaded))
    where, root = resolve(device), o.data_root(data_root)
    if dry_run:
        work(loaded, root, None, False, World(where))
        return _ready(open_dataset(loaded.dataset.name, loaded.store, root))
    world = launch(where, devices, nodes)
    path = world.first(lambda: runs.choose(run_dir, "pretrain", loaded.start, resume))
    summary = work(loaded, root, path, resume, world, board)
    verb = "eval" if loaded.eval.protocol == "classification" else "metatrain"
    say(f"next: fsl {verb} --recipe {recipe} --weights {summary['weights']}")
    emit(json.dumps(summary, indent=2), kept=str(path / runs.SUMMARY))


def metatrain(
    recipe: o.Recipe = o.DEFAULT_RECIPE,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    device: o.Device = "auto",
    devices: o.Devices = None,
    nodes: o.Nodes = None,
    precision: o.Precision = None,
    board: o.Board = False,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
    print_config: o.PrintConfig = False,
    dry_run: o.DryRun = False,
    debug: o.Debug = False,
) -> None:
    """Train the backbone on episodes, end to end through the head; starts from pre-trained weights."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.data.prepare import open_dataset
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import World, launch
    from fewshot_cli.training.metatrain import metatrain as work

    loaded = load_recipe(recipe, o.with_precision(sets, "metatrain", precision), solver, seed)
    if print_config:
        return emit(o.printed(loaded))
    where, root = resolve(device), o.data_root(data_root)
    if dry_run:
        work(loaded, root, None, False, World(where), weights)
        return _ready(open_dataset(loaded.dataset.name, loaded.store, root))
    world = launch(where, devices, nodes)
    path = world.first(lambda: runs.choose(run_dir, "metatrain", loaded.weights or loaded.name, resume))
    summary = work(loaded, root, path, resume, world, weights, board)
    say(f"next: fsl eval --recipe {recipe} --weights {summary['weights']}")
    emit(json.dumps(summary, indent=2), kept=str(path / runs.SUMMARY))


def _ready(store) -> None:  # noqa: ANN001
    say(
        f"dry run: recipe, solver, weights, episodes and dataset {store.name} (sha256 "
        f"{store.index['sha256'][:16]}…) are in order"
    )
