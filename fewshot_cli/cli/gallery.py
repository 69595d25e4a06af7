"""`fsl gallery add|remove|list|search`: images that are embedded once and searched often."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format, say_next, warn_not_converged
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit, progress, say
from fewshot_cli.runtime.render import Format

if TYPE_CHECKING:
    from fewshot_cli.evaluation.model import Model
    from fewshot_cli.predict.gallery import Gallery

app = typer.Typer(help="Keep a gallery of embedded images: add to it, delete from it, search it.", no_args_is_help=True)
Place = Annotated[Path, typer.Argument(file_okay=False, help="Folder of the gallery.")]
Images = Annotated[list[Path], typer.Argument(help="Images, or folders of images.")]


@app.command()
def add(
    gallery: Place,
    images: Images,
    share: Annotated[
        str | None,
        typer.Option(
            "--share", metavar="I/N", help="Embed only the I-th of N parts: for N processes or machines at once."
        ),
    ] = None,
    recipe: o.PhotoRecipe = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    data_root: o.DataRoot = None,
) -> None:
    """Embed images that the gallery does not hold yet; it is made where there is none."""
    from fewshot_cli.data.user_images import LooseImages, Taking, all_bad_of

    part, parts = _share(share)
    opened, model = _opened(gallery, True, recipe, weights, sets, device, data_root)
    given = LooseImages(images, model.recipe.image, Taking(None, skip_bad))
    mine = given.only(range(part - 1, len(given), parts))
    with all_bad_of(mine), progress("embed", len(mine), "images") as bar:
        added = opened.add(mine, model, bar.update)
    say(f"{gallery}: {added} images added, {len(mine) - added} were there; it holds {len(opened)}")
    say_next(f"fsl gallery search {gallery} IMAGE")


@app.command()
def remove(
    gallery: Place,
    names: Annotated[list[str], typer.Argument(help="Names of images, or of folders that hold them.")],
    recipe: o.PhotoRecipe = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    data_root: o.DataRoot = None,
) -> None:
    """Let images no longer be found; nothing is embedded anew."""
    opened, _ = _opened(gallery, False, recipe, weights, sets, "cpu", data_root)
    say(f"{gallery}: {opened.remove(names)} images removed, it holds {len(opened)}")


@app.command("list")
def list_images(
    gallery: Place,
    recipe: o.PhotoRecipe = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    data_root: o.DataRoot = None,
) -> None:
    """Print the names of the gallery's images, one a line."""
    opened, _ = _opened(gallery, False, recipe, weights, sets, "cpu", data_root)
    emit("\n".join(opened.names()))


@app.command()
def search(
    gallery: Place,
    images: Images,
    top: Annotated[int, typer.Option("--top", min=1, help="Images found for each query.")] = 5,
    shortlist: Annotated[
        int, typer.Option("--shortlist", min=1, help="Nearest images that the head ranks anew.")
    ] = 100,
    engine: Annotated[
        str,
        typer.Option(
            "--engine", help="numpy, flat or ivf (of faiss); auto takes ivf for large galleries, if faiss is installed."
        ),
    ] = "auto",
    recipe: o.PhotoRecipe = None,
    weights: o.Weights = None,
    sets: o.Set = None,
    solver: o.Solver = None,
    format: Annotated[Format, o.format_option(Format.table, Format.json, Format.csv)] = Format.table,
    skip_bad: o.SkipBad = False,
    device: o.Device = "auto",
    data_root: o.DataRoot = None,
) -> None:
    """Find the images most like each query: the nearest by pooled features, ranked anew by the recipe's head."""
    from fewshot_cli import transport
    from fewshot_cli.data.user_images import LooseImages, Taking, all_bad_of
    from fewshot_cli.predict.gallery import find
    from fewshot_cli.predict.nearest import ENGINES

    if engine not in ENGINES:
        raise FslError(f"--engine {engine}: choose one of {', '.join(ENGINES)}")
    opened, model = _opened(gallery, False, recipe, weights, sets, device, data_root, solver)
    asked = LooseImages(images, model.recipe.image, Taking(None, skip_bad))
    with all_bad_of(asked), transport.ledger() as ledger, progress("search", len(asked), "queries") as bar:
        rows = find(opened, model, asked, shortlist, top, engine, bar.update)
    result = {"format": 1, "gallery": str(gallery), "images": len(opened), "queries": rows}
    flat = [{"query": r["query"], "place": i, **hit} for r in rows for i, hit in enumerate(r["found"], 1)]
    table = [[f["query"], f["place"], f["image"], f"{f['score']:.4f}", f"{f['cosine']:.4f}"] for f in flat]
    many = "query" if len(rows) == 1 else "queries"
    sentence = f"{len(rows)} {many} in the {len(opened)} images of {gallery}"
    block = (["query", "place", "image", "score", "cosine"], table, ("cosine", "place"))
    emit(in_format(format, result, [block], [], flat, sentence))
    warn_not_converged(sum(ledger.failures(1)))


def _share(text: str | None) -> tuple[int, int]:
    """`--share` as the part's number, from 1, and the number of parts."""
    if text is None:
        return 1, 1
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise FslError(f"--share {text}: write it as I/N with I from 1 to N, such as 2/8")
    return int(first), int(second)


def _opened(
    path: Path,
    create: bool,
    recipe: str | None,
    weights: Path | None,
    sets: list[str] | None,
    device: str,
    data_root: Path | None,
    solver: str | None = None,
) -> tuple["Gallery", "Model"]:
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.evaluation.model import Model
    from fewshot_cli.predict.gallery import Gallery
    from fewshot_cli.runtime.device import resolve
    from fewshot_cli.runtime.processes import Processes

    loaded = load_recipe(o.photo_recipe(recipe, 1), sets, solver, None)
    model = Model.open(loaded, o.data_root(data_root), Processes(resolve(device)), weights)
    return Gallery.open(path, model, create), model
