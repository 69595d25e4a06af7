"""What alignment does to a support image's map, drawn: heat maps and correlations before and after each step.

Figures 3, 4 and 5 of long-short-range spatial alignment (ACM Multimedia 2021).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Alignment, Aligns
from fewshot_cli.data.store import ImageSet
from fewshot_cli.evaluation.model import Model
from fewshot_cli.figures import layout, style
from fewshot_cli.figures.canvas import new, save, styled
from fewshot_cli.figures.layout import EDGE, LINE, Spot, caption
from fewshot_cli.figures.matching import against, parts_with, shown, two
from fewshot_cli.figures.style import plain_names

NO_MAP = "lays no map over another; use a recipe with head {heads}, or leave out --maps"
SIDE, GAP, FOOT = 1.0, 0.1, 0.5  # inches of a panel, between panels, and of the scales


@dataclass(frozen=True)
class Sheet:
    """A row of the figure: query and support images [3,H,W] in [0,1], what became of the map, the support's name, and
    whether the query is of its class.
    """

    query: Tensor
    support: Tensor
    alignment: Alignment
    title: str
    same: bool = False

    def heat(self) -> dict[str, Tensor]:
        """The largest channel at each position [h,w] by title: of the query's map, and of the support's at each
        stage.
        """
        maps = {"query's map": self.alignment.query} | {stage.title: stage.map for stage in self.alignment.stages}
        return {title: x.amax(0).cpu() for title, x in maps.items()}

    def correlations(self) -> dict[str, Tensor]:
        """Cosines [HW,HW] of the query's positions with those of the support's map by title, for the stages that have
        one.
        """
        query = F.normalize(self.alignment.query.flatten(1), dim=0, eps=1e-12)
        maps = {stage.correlation: stage.map for stage in self.alignment.stages if stage.correlation is not None}
        return {title: (query.T @ F.normalize(x.flatten(1), dim=0, eps=1e-12)).cpu() for title, x in maps.items()}

    def distances(self) -> dict[str, float]:
        """Squared distance of the query's map and the support's by stage, summed over channels, mean over positions."""
        return {s.name: float((s.map - self.alignment.query).square().sum(0).mean()) for s in self.alignment.stages}


def map_images(
    recipe: Recipe, left: Path, right: Path, out: Path, given: Path | None, root: Path, device: torch.device
) -> list[dict]:
    """Draw what becomes of RIGHT's map laid over LEFT's; returns a record. Raises `DataError`, `RecipeError`."""
    model, images = parts_with(recipe, given, root, device, Aligns, NO_MAP), two(left, right, recipe.image)
    sheet, failed = _sheet(model, images, model.features(images), 0, 1, f"support: {right.name}")
    alignments(out, [sheet])
    return [{"left": str(left), "right": str(right), "distance": sheet.distances(), "not_converged": failed}]


def map_episode(
    recipe: Recipe, episode: int, query: int, out: Path, given: Path | None, root: Path, device: torch.device
) -> list[dict]:
    """Draw the same for one query of an episode and every class's first support image; returns a record per class."""
    model = parts_with(recipe, given, root, device, Aligns, NO_MAP)
    split = model.split
    left, others = against(model, episode, query)
    maps, records, sheets = model.features(split), [], []
    names = plain_names(split.classes[cls] for cls, _, _ in others)
    truth = next(names[split.classes[cls]] for cls, _, same in others if same)
    for cls, support, same in others:
        name = names[split.classes[cls]] + (" (the right class)" if same else "")
        sheet, failed = _sheet(model, split, maps, left, support, name, same)
        records.append(
            {"class": split.classes[cls], "true": same, "distance": sheet.distances(), "not_converged": failed}
        )
        sheets.append(sheet)
    alignments(out, sheets, f"{recipe.name}, episode {episode}, query {query}: {truth}")
    return records


@torch.no_grad()
def _sheet(
    model: Model, images: ImageSet, maps: Tensor, left: int, right: int, title: str, same: bool = False
) -> tuple[Sheet, int]:
    query, support = (shown(model.recipe, images, pick)[0] for pick in (left, right))
    assert isinstance(model.head, Aligns)  # or `parts_with` had refused it
    with transport.ledger() as ledger:
        alignment = model.head.align(maps[left], maps[right])
    return Sheet(query, support, alignment, title, same), sum(ledger.failures(1))


def alignments(path: Path, sheets: list[Sheet], title: str = "") -> None:
    """Write what `draw` draws. Raises `DataError` when the file cannot be written."""
    save(path, draw(sheets, title))


@styled
def draw(sheets: list[Sheet], title: str = "") -> Any:
    """A row for each `Sheet`: query and support, heat maps of the query's map and of the support's at each stage, and
    the correlations with the query. Heat maps of a row share their scale. Returns a Matplotlib figure.
    """
    columns = 2 + len(sheets[0].heat()) + len(sheets[0].correlations())
    width = max(2 * EDGE + columns * SIDE + (columns - 1) * GAP, 5.2)
    texts = [[caption(words, SIDE, colour) for words, colour in _captions(sheet)] for sheet in sheets]
    below = [0.07 + LINE * max(map(len, row)) for row in texts]
    over = layout.heading_height(title, width)
    drawn = new(width, over + len(sheets) * SIDE + sum(below) + (len(sheets) - 1) * GAP + FOOT)
    layout.heading(drawn, title)
    top = drawn.get_figheight() - over
    for sheet, row, under in zip(sheets, texts, below, strict=True):
        spots = [Spot(EDGE + place * (SIDE + GAP), top - SIDE, SIDE, SIDE) for place in range(columns)]
        _row(drawn, sheet, spots)
        for spot, lines in zip(spots, row, strict=True):
            layout.write_caption(drawn, spot.x + SIDE / 2, top - SIDE - 0.05, lines)
        top -= SIDE + under + GAP
    _scales(drawn)
    return drawn


def _captions(sheet: Sheet) -> list[tuple[str, str]]:
    """What stands below each panel of a row, and its colour."""
    support = style.TRUTH if sheet.same else style.INK
    distances = dict(zip((stage.title for stage in sheet.alignment.stages), sheet.distances().values(), strict=True))
    heat = [f"{name}\ndistance {distances[name]:.3g}" if name in distances else name for name in sheet.heat()]
    return [
        ("query", style.INK),
        (sheet.title or "support", support),
        *((words, style.INK) for words in (*heat, *sheet.correlations())),
    ]


def _row(drawn: Any, sheet: Sheet, spots: list[Spot]) -> None:
    for image, spot in zip((sheet.query, sheet.support), spots, strict=False):
        wide, high = layout.fitted(image, SIDE)
        layout.show(
            layout.axes_at(drawn, Spot(spot.x + (SIDE - wide) / 2, spot.y + (SIDE - high) / 2, wide, high)), image
        )
    heat, correlations = sheet.heat(), sheet.correlations()
    most = max(float(x.max()) for x in heat.values())
    ranges = [(x, 0.0, most) for x in heat.values()] + [(x, -1.0, 1.0) for x in correlations.values()]
    for (values, low, high), spot in zip(ranges, spots[2:], strict=True):
        axes = layout.axes_at(drawn, spot)
        axes.imshow(values.numpy(), cmap=style.HEAT, vmin=low, vmax=high, interpolation="nearest", aspect="auto")


def _scales(drawn: Any) -> None:
    """At the foot of the figure: what the colours of heat maps and of correlations mean."""
    import matplotlib

    colours = matplotlib.colormaps[style.HEAT](torch.linspace(0, 1, 256)[None].numpy())
    words = "Heat map, the largest channel at each position:", "Correlation, the cosine of two positions:"
    layout.scale(drawn, EDGE, 0.39, words[0], colours, ("0", "largest of the row"))
    layout.scale(drawn, EDGE, 0.19, words[1], colours, ("−1", "1"))
