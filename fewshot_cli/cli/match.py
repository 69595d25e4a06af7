"""`fsl match`: draw what in one image matches what in another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format, warn_not_converged
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit, say
from fewshot_cli.runtime.render import Format

if TYPE_CHECKING:
    import torch

    from fewshot_cli.config.schema import Recipe

    Source = tuple[Path | None, Path, torch.device]  # weights, data root and device


Out = Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="Figure to write (PNG, SVG or PDF).")]
Left = Annotated[Path | None, typer.Argument(help="An image.")]
Right = Annotated[Path | None, typer.Argument(help="The image it is matched with.")]
Episode = Annotated[
    int | None,
    typer.Option("--episode", min=0, max=2**63 - 1, help="Instead of two files, an episode of the recipe's dataset."),
]
Query = Annotated[
    int | None, typer.Option("--query", min=0, help="Query of the episode, against all its classes (default: 0).")
]
Printed = Annotated[Format, o.format_option(Format.table, Format.json, Format.csv)]


def match(
    out: Out,
    left: Left = None,
    right: Right = None,
    recipe: o.PhotoRecipe = None,
    episode: Episode = None,
    query: Query = None,
    flows: Annotated[bool, typer.Option("--flows", help="Draw all flows, not only the strongest.")] = False,
    maps: Annotated[bool, typer.Option("--maps", hidden=True, help="Old spelling of `fsl align`.")] = False,
    classes: Annotated[
        list[str] | None, typer.Option("--class", hidden=True, metavar="NAME", help="Old spelling of `fsl proxies`.")
    ] = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    format: Printed = Format.table,
    device: o.Device = "auto",
    seed: o.Seed = None,
    data_root: o.DataRoot = None,
) -> None:
    """Draw LEFT and RIGHT with the strongest flows between them, and LEFT rebuilt from RIGHT's best patches."""
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
        o.told_elsewhere("fsl match IMAGE", f"fsl proxies {images[0]} --recipe {loaded.name}")
        records = correspond(loaded, images[0], classes or [], out, *source)
    else:
        _check_for_episodes(images, episode, classes, flows, maps)
        episode_query = (episode, query or 0) if episode is not None else None
        if maps:
            o.told_elsewhere("--maps", "fsl align")
            records = draw_maps(loaded, images, episode_query, out, source)
        else:
            records = _draw_flow(loaded, images, episode_query, out, flows, source)
    print_drawn(records, out, format)


def print_drawn(records: list[dict[str, Any]], out: Path, form: Format) -> None:
    """Print what a figure shows: a sentence about the likeliest, and a row for each pair of images or class."""
    say(f"figure: {out}")
    warn_not_converged(sum(record["not_converged"] for record in records))
    flat = [_flat(record) for record in records]
    header = list(dict.fromkeys(key for record in flat for key in record if key not in ("not_converged", "shares")))
    rows = [[_short(record.get(key, "")) for key in header] for record in flat]
    emit(in_format(form, records, [(header, rows)] if len(rows) > 1 else [], [], flat, _sentence(records)))


def _sentence(records: list[dict[str, Any]]) -> str:
    """The result in words: how alike two images are, or which class is the likeliest and whether it is right."""
    best, first = max(records, key=_score), records[0]
    if "left" in first:
        measured = (
            f"similarity {first['similarity']:.4f}"
            if "similarity" in first
            else f"distance {_steps(first['distance'])}"
        )
        return f"{first['left']} and {first['right']}: {measured}"
    if "probability" in first:
        return f"{best['class']}: {100 * best['probability']:.1f} %, the likeliest of those drawn"
    true = next((record["class"] for record in records if record["true"]), None)
    verdict = "its class" if best["true"] else f"not its class, {true}"
    how = f"similarity {best['similarity']:.4f}" if "similarity" in best else f"distance {_steps(best['distance'])}"
    return f"the query is most like {best['class']} ({how}), {verdict}"


def _score(record: dict[str, Any]) -> float:
    """What the likeliest of several records has most of."""
    if "distance" in record:
        return -float(list(record["distance"].values())[-1])
    return float(record.get("similarity", record.get("probability", 0.0)))


def _steps(distance: dict[str, float]) -> str:
    return " → ".join(f"{value:.4g} ({name})" for name, value in distance.items())


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record with plain values alone: those inside it by their own names, and of lists all in one."""
    out: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            out |= {f"{key} {name}": one for name, one in value.items()}
        else:
            out[key] = " ".join(map(str, value)) if isinstance(value, list) else value
    return out


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


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


def draw_maps(
    recipe: "Recipe", images: list[Path], query: tuple[int, int] | None, out: Path, source: "Source"
) -> list[dict[str, Any]]:
    """Draw what head align makes of feature maps, of two images or a query as in `_draw_flow`."""
    from fewshot_cli.figures.alignment import map_episode, map_images

    if query is not None:
        episode, number = query
        return map_episode(recipe, episode, number, out, *source)
    left, right = images
    return map_images(recipe, left, right, out, *source)
