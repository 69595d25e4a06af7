"""What alignment does to a support picture's map, drawn: heat maps and correlations before and after each step.

Figures 3, 4 and 5 of long-short-range spatial alignment (ACM Multimedia 2021).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli import build, transport
from fewshot_cli.contracts import Alignment, Aligns
from fewshot_cli.data.store import Split
from fewshot_cli.match import against, parts_with, shown, two
from fewshot_cli.pictures import Parts, Pictures
from fewshot_cli.plots import alignments
from fewshot_cli.schema import Recipe

NO_MAP = "lays no map over another; use a recipe with head align, or leave out --maps"
STEPS = ("before", "after_lsc", "after_ssm")


@dataclass(frozen=True)
class Sheet:
    """A line of the figure: query and support pictures [3,S,S] in [0,1], what became of the map, and a title."""

    query: Tensor
    support: Tensor
    found: Alignment
    title: str

    def heat(self) -> dict[str, Tensor]:
        """The largest channel at each position [h,w]: of the query's map, and of the support's at each step."""
        maps = (self.found.query, self.found.support, self.found.carried, self.found.moved)
        return {name: x.amax(0).cpu() for name, x in zip(("query", *STEPS), maps, strict=True)}

    def correlations(self) -> dict[str, Tensor]:
        """Cosines [HW,HW] of the query's positions with those of the support's map, before LSC and after."""
        query = F.normalize(self.found.query.flatten(1), dim=0, eps=1e-12)
        steps = {"before": self.found.support, "after_lsc": self.found.carried}
        return {name: (query.T @ F.normalize(x.flatten(1), dim=0, eps=1e-12)).cpu() for name, x in steps.items()}

    def distances(self) -> dict[str, float]:
        """Squared distance of the query's map and the support's at each step, summed over channels, mean over
        positions.
        """
        steps = zip(STEPS, (self.found.support, self.found.carried, self.found.moved), strict=True)
        return {name: float((x - self.found.query).square().sum(0).mean()) for name, x in steps}


def map_pictures(
    recipe: Recipe, left: Path, right: Path, out: Path, given: Path | None, root: Path, device: torch.device
) -> list[dict]:
    """Draw what becomes of RIGHT's map laid over LEFT's; returns a record. Raises `DataError`, `RecipeError`."""
    parts, pictures = parts_with(recipe, given, root, device, Aligns, NO_MAP), two(left, right)
    sheet, failed = _sheet(parts, pictures, parts.maps(pictures), 0, 1, "")
    alignments(out, [sheet])
    return [{"left": str(left), "right": str(right), "distance": sheet.distances(), "not_converged": failed}]


def map_episode(
    recipe: Recipe, episode: int, query: int, out: Path, given: Path | None, root: Path, device: torch.device
) -> list[dict]:
    """Draw the same for one query of an episode and every class's first support picture; returns a record a class."""
    parts = parts_with(recipe, given, root, device, Aligns, NO_MAP)
    split = build.store(recipe, root).split(recipe.eval.split)
    left, others = against(recipe, split, root, episode, query)
    maps, records, sheets = parts.maps(split), [], []
    for cls, support, own in others:
        sheet, failed = _sheet(parts, split, maps, left, support, split.classes[cls] + (" (its class)" if own else ""))
        records.append(
            {"class": split.classes[cls], "true": own, "distance": sheet.distances(), "not_converged": failed}
        )
        sheets.append(sheet)
    alignments(out, sheets)
    return records


@torch.no_grad()
def _sheet(
    parts: Parts, pictures: Pictures | Split, maps: Tensor, left: int, right: int, title: str
) -> tuple[Sheet, int]:
    seen, _ = shown(parts.recipe, pictures, [left, right])
    with transport.ledger() as book:
        found = parts.head.align(maps[left], maps[right])
    return Sheet(seen[0], seen[1], found, title), sum(book.failures(1))
