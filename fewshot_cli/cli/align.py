"""`fsl align`: draw what head align makes of one image's map on its way to another's."""

from fewshot_cli.cli import match as m
from fewshot_cli.cli import options as o
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.render import Format


def align(
    out: m.Out,
    left: m.Left = None,
    right: m.Right = None,
    recipe: o.PhotoRecipe = None,
    episode: m.Episode = None,
    query: m.Query = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    format: m.Printed = Format.table,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Draw how a recipe with head align moves RIGHT's feature map onto LEFT's: heat maps and correlations before and
    after each step.
    """
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.figures.canvas import check
    from fewshot_cli.runtime.device import resolve

    images = [path for path in (left, right) if path is not None]
    if len(images) != (0 if episode is not None else 2):
        raise FslError("give two images, LEFT and RIGHT, or --episode with a number for a query against all classes")
    if query is not None and episode is None:
        raise FslError("--query names a query of an episode; give --episode too, or leave --query out")
    check(out)
    loaded = load_recipe(o.photo_recipe(recipe, 1, episode is None), sets, None, seed)
    if loaded.eval.protocol == "classification":
        raise FslError(f"recipe {loaded.name} is of protocol classification; give one of few-shot episodes, head align")
    source = (weights, o.data_root(data_root), resolve(device))
    wanted = (episode, query or 0) if episode is not None else None
    m.print_drawn(m.draw_maps(loaded, images, wanted, out, source), out, format)
