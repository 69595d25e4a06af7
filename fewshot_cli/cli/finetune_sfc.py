"""`fsl finetune-sfc`: a classifier from a folder of your own examples."""

from fewshot_cli.cli import options as o
from fewshot_cli.cli import output
from fewshot_cli.runtime.console import say


def finetune_sfc(
    support: o.Support,
    recipe: o.PhotoRecipe = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    class_level: o.ClassLevel = None,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
    run_dir: o.RunDir = None,
    resume: o.Resume = False,
    print_config: o.PrintConfig = False,
    dry_run: o.DryRun = False,
) -> None:
    """Learn a structured fully connected layer from your own examples and write it to the run directory."""
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.data.user_images import Taking
    from fewshot_cli.predict.finetune import finetune
    from fewshot_cli.runtime import runs
    from fewshot_cli.runtime.device import resolve

    recipe = o.photo_recipe(recipe, 5)
    loaded = load_recipe(recipe, sets, solver, seed)
    if print_config:
        return output.print_recipe(loaded)
    path = None if dry_run else runs.choose(run_dir, "finetune-sfc", loaded.name, resume)
    root, place, taking = o.data_root(data_root), resolve(device), Taking(class_level, skip_bad)
    summary = finetune(loaded, support, path, resume, weights, root, place, taking)
    if summary is None or path is None:
        return say("dry run: recipe, weights, solver and support folder are in order")
    output.say_next(f"fsl eval --recipe {recipe} --classifier {summary['classifier']} --query FOLDER")
    return output.print_summary(summary, path)
