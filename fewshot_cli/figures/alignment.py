"""What alignment does to a support image's map, drawn: heat maps and correlations before and after each step.

Figures 3, 4 and 5 of long-short-range spatial alignment (ACM Multimedia 2021).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Alignment, Aligns
from fewshot_cli.data.store import ImageSet
from fewshot_cli.evaluation.model import Model
from fewshot_cli.figures.canvas import save
from fewshot_cli.figures.matching import against, parts_with, shown, two

NO_MAP = "lays no map over another; use a recipe with head {heads}, or leave out --maps"


@dataclass(frozen=True)
class Sheet:
    """A line of the figure: query and support images [3,S,S] in [0,1], what became of the map, and a title."""

    query: Tensor
    support: Tensor
    alignment: Alignment
    title: str

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
    sheet, failed = _sheet(model, images, model.features(images), 0, 1, "")
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
    for cls, support, same in others:
        sheet, failed = _sheet(model, split, maps, left, support, split.classes[cls] + (" (its class)" if same else ""))
        records.append(
            {"class": split.classes[cls], "true": same, "distance": sheet.distances(), "not_converged": failed}
        )
        sheets.append(sheet)
    alignments(out, sheets)
    return records


@torch.no_grad()
def _sheet(model: Model, images: ImageSet, maps: Tensor, left: int, right: int, title: str) -> tuple[Sheet, int]:
    seen, _ = shown(model.recipe, images, [left, right])
    assert isinstance(model.head, Aligns)  # or `parts_with` had refused it
    with transport.ledger() as ledger:
        alignment = model.head.align(maps[left], maps[right])
    return Sheet(seen[0], seen[1], alignment, title), sum(ledger.failures(1))


def alignments(path: Path, sheets: list) -> None:
    """A line for each `Sheet`: query and support, heat maps of the query's map and of the support's at each stage, and
    the correlations with the query.

    Heat maps of a line share their scale. Raises `DataError` when the file cannot be written.
    """
    plt = _pyplot()
    columns = 2 + len(sheets[0].heat()) + len(sheets[0].correlations())
    figure, axes = plt.subplots(
        len(sheets), columns, figsize=(2 * columns, 2.3 * len(sheets)), layout="constrained", squeeze=False
    )
    for line, sheet in zip(axes, sheets, strict=True):
        for axis, image, name in zip(
            line, (sheet.query, sheet.support), ("query", sheet.title or "support"), strict=False
        ):
            axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axis.set_title(name, fontsize=9)
        heat = sheet.heat()
        most = max(float(x.max()) for x in heat.values())
        for axis, (title, values) in zip(line[2:], heat.items(), strict=False):
            axis.imshow(values.numpy(), cmap="inferno", vmin=0, vmax=most, interpolation="nearest")
            axis.set_title(title, fontsize=9)
        for axis, (title, values) in zip(line[2 + len(heat) :], sheet.correlations().items(), strict=True):
            axis.imshow(values.numpy(), cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
            axis.set_title(title, fontsize=9)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    save(path, figure)
