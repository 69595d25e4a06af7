"""`fsl match`: draw what in one image matches what in another, or in the proxies of a classifier."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import warn_not_converged
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import as_json

if TYPE_CHECKING:
    import torch

    from fewshot_cli.config.schema import Recipe

    Source = tuple[Path | None, Path, torch.device]  # weights, data root and device


def match(
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="Figure to write (PNG, SVG or PDF).")],
    left: Annotated[Path | None, typer.Argument(help="An image.")] = None,
    right: Annotated[Path | None, typer.Argument(help="The image it is matched with.")] = None,
    recipe: o.PhotoRecipe = None,
    episode: Annotated[
        int | None,
        typer.Option(
            "--episode", min=0, max=2**63 - 1, help="Instead of two files, use this episode of the recipe's dataset."
        ),
    ] = None,
    query: Annotated[
        int | None, typer.Option("--query", min=0, help="Query of the episode, against all its classes (default: 0).")
    ] = None,
    flows: Annotated[bool, typer.Option("--flows", help="Draw all flows, not only the strongest.")] = False,
    maps: Annotated[
        bool, typer.Option("--maps", help="For head align: heat maps and correlations before and after each step.")
    ] = False,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="For one image and a classifier: draw this class; repeatable (default: the three most likely).",
        ),
    ] = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Draw LEFT and RIGHT with the strongest flows between them, and LEFT rebuilt from RIGHT's best matching patches.

    With --maps and a recipe with head align: how it aligns RIGHT's feature map with LEFT's. With a recipe with
    classifier multi_proxy, such as cifar100_resnet20_mpw: which proxy each position of one image is matched with.
    """
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.figures.canvas import check
    from fewshot_cli.figures.proxies import correspond
    from fewshot_cli.runtime.device import resolve

    images = [path for path in (left, right) if path is not None]
    if query is not None and episode is None:
        raise FslError("--query names a query of an episode; give --episode too, or leave --query out")
    check(out)
    loaded = load_recipe(o.photo_recipe(recipe, 1, episode is None), sets, solver, seed)
    source = (weights, o.data_root(data_root), resolve(device))
    if loaded.eval.protocol == "classification":
        _check_for_classifier(loaded.name, images, episode, flows, maps)
        records = correspond(loaded, images[0], classes or [], out, *source)
    else:
        _check_for_episodes(images, episode, classes, flows, maps)
        episode_query = (episode, query or 0) if episode is not None else None
        if maps:
            records = _draw_maps(loaded, images, episode_query, out, source)
        else:
            records = _draw_flow(loaded, images, episode_query, out, flows, source)
    say(f"figure: {out}")
    warn_not_converged(sum(record["not_converged"] for record in records))
    emit(as_json(records))


def _check_for_classifier(recipe: str, images: list[Path], episode: int | None, flows: bool, maps: bool) -> None:
    """Refuse what a recipe of protocol classification cannot draw."""
    if len(images) != 1 or episode is not None or flows:
        raise FslError(
            f"recipe {recipe} classifies one image at a time: give one IMAGE, which is matched with the proxies of its "
            "classes, without --episode, --query and --flows"
        )
    if maps:
        raise _maps_need_episodes()


def _check_for_episodes(
    images: list[Path], episode: int | None, classes: list[str] | None, flows: bool, maps: bool
) -> None:
    """Refuse what a recipe of protocol episodes cannot draw."""
    if classes:
        raise FslError(
            "--class chooses classes of a classifier; give a recipe of protocol classification, such as "
            "cifar100_resnet20_mpw, or leave --class out"
        )
    if len(images) != (0 if episode is not None else 2):
        raise FslError(
            "give two images, LEFT and RIGHT, or --episode with a number for a query against all classes, or one "
            "image and a recipe with classifier multi_proxy, such as cifar100_resnet20_mpw"
        )
    if maps and flows:
        raise _maps_need_episodes()


def _maps_need_episodes() -> FslError:
    return FslError(
        "--maps draws what head align does to the map of a support image; leave out --flows, and use a recipe of "
        "protocol episodes"
    )


def _draw_flow(
    recipe: "Recipe", images: list[Path], query: tuple[int, int] | None, out: Path, flows: bool, source: "Source"
) -> list[dict[str, Any]]:
    """Draw the matching of two images, or of a query (episode and number) with every class of its episode."""
    from fewshot_cli.figures.matching import match_episode, match_images

    if query is not None:
        episode, number = query
        return match_episode(recipe, episode, number, out, flows, *source)
    left, right = images
    return match_images(recipe, left, right, out, flows, *source)


def _draw_maps(
    recipe: "Recipe", images: list[Path], query: tuple[int, int] | None, out: Path, source: "Source"
) -> list[dict[str, Any]]:
    """Draw what head align makes of feature maps, of two images or a query as in `_draw_flow`."""
    from fewshot_cli.figures.alignment import map_episode, map_images

    if query is not None:
        episode, number = query
        return map_episode(recipe, episode, number, out, *source)
    left, right = images
    return map_images(recipe, left, right, out, *source)
