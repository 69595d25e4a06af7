"""`fsl pretrain`: backbone and classifier, trained on all base classes."""

from fewshot_cli.cli import options as o
from fewshot_cli.cli import output


def pretrain(
    recipe: o.Recipe = o.DEFAULT_RECIPE,
    sets: o.Set = None,
    solver: o.Solver = None,
    device: o.Device = "auto",
    devices: o.Devices = None,
    nodes: o.Nodes = None,
    precision: o.Precision = None,
    log: o.Log = None,
    tensorboard: o.TensorBoard = False,
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
    print_config: o.PrintConfig = False,
    dry_run: o.DryRun = False,
) -> None:
    """Train backbone and classifier by cross-entropy over all base classes, validated by few-shot episodes."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.data.prepare import open_dataset
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import Processes, launch
    from fewshot_cli.training.pretrain import pretrain as train

    loaded = load_recipe(recipe, [*(sets or []), *o.as_sets({"pretrain.precision": precision})], solver, seed)
    if print_config:
        return output.print_recipe(loaded)
    chosen_device, root = resolve(device), o.data_root(data_root)
    processes = Processes(chosen_device) if dry_run else launch(chosen_device, devices, nodes)
    path = None if dry_run else processes.first(lambda: runs.choose(run_dir, "pretrain", loaded.start, resume))
    summary = train(loaded, root, path, resume, processes, o.loggers(log, tensorboard))
    if summary is None or path is None:
        return output.say_ready_to_train(open_dataset(loaded.dataset.name, loaded.store, root))
    verb = "eval" if loaded.eval.protocol == "classification" else "metatrain"
    output.say_next(f"fsl {verb} --recipe {recipe} --weights {summary['weights']}")
    return output.print_summary(summary, path)
