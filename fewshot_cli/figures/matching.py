"""What matches what: the best patches, node weights and flows of two images (DeepEMD, CVPR 2020, Figure 5)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot_cli import registry, transport
from fewshot_cli.config.schema import ImageSpec, Recipe
from fewshot_cli.contracts import Matches, Matching
from fewshot_cli.data.store import ImageSet, Split
from fewshot_cli.data.user_images import LooseImages
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.evaluation.model import Model
from fewshot_cli.features.crops import cut
from fewshot_cli.features.embed import Patches
from fewshot_cli.figures.canvas import _pyplot, save
from fewshot_cli.runtime.processes import Processes

SHOWN = 240  # least side of a drawn image
NO_FLOW = "has no flow between two images; use a 1-shot recipe with head {heads}, or --set head={first}"


class Side(NamedTuple):
    """One image of a pair: a set, its place there, and its map [d,h,w]."""

    images: ImageSet
    place: int
    map: Tensor


@dataclass(frozen=True)
class Panel:
    """One row of the figure: images [3,S,S] in [0,1], where nodes lie and where their content comes from (boxes [n,4]
    as shares), how they match, and the words beside it.
    """

    left: Tensor
    right: Tensor
    places: Tensor
    left_boxes: Tensor
    right_boxes: Tensor
    matching: Matching
    title: str

    def rebuilt(self) -> Tensor:
        """The left image from the best matching patches of the right, brightness by node weight: [3,S,S].

        Smaller nodes are drawn over larger ones.
        """
        out, side = torch.zeros_like(self.left), self.left.shape[-1]
        best, bright = self.matching.flow.argmax(1), self.matching.supply / self.matching.supply.max()
        edges = (
            torch.cat([self.places[:, :2], self.places[:, :2] + self.places[:, 2:]], 1).mul(side).round().int().tolist()
        )
        for i in self.places[:, 2:].prod(1).argsort(dim=0, descending=True, stable=True).tolist():
            x0, y0, x1, y1 = edges[i]
            patch = cut(
                self.right[None], self.right_boxes[best[i]][None], torch.tensor([False]), max(x1 - x0, y1 - y0, 1)
            )
            patch = torch.nn.functional.interpolate(patch, (max(1, y1 - y0), max(1, x1 - x0)), mode="bilinear")[0]
            out[:, y0:y1, x0:x1] = float(bright[i]) * patch[:, : y1 - y0, : x1 - x0]
        return out


def match_images(
    recipe: Recipe,
    left: Path,
    right: Path,
    out: Path,
    flows: bool,
    given: Path | None,
    root: Path,
    device: torch.device,
) -> list[dict]:
    """Draw how two image files match; returns a record per pair. Raises `DataError`, `RecipeError`."""
    model, images = parts_with(recipe, given, root, device, Matches, NO_FLOW), two(left, right, recipe.image)
    maps = model.features(images)
    panel, failed = pair_panel(model, Side(images, 0, maps[0]), Side(images, 1, maps[1]), "similarity ")
    matches(out, [panel], flows)
    return [{"left": str(left), "right": str(right), "similarity": panel.matching.similarity, "not_converged": failed}]


def match_episode(
    recipe: Recipe,
    episode: int,
    query: int,
    out: Path,
    flows: bool,
    given: Path | None,
    root: Path,
    device: torch.device,
) -> list[dict]:
    """Draw how one query of an episode matches every class's first support image; returns a record per class."""
    model = parts_with(recipe, given, root, device, Matches, NO_FLOW)
    split = model.split
    left, others = against(model, episode, query)
    maps, records, panels = model.features(split), [], []
    for cls, support, same in others:
        name = split.classes[cls] + (" (its class)" if same else "")
        sides = Side(split, left, maps[left]), Side(split, support, maps[support])
        panel, failed = pair_panel(model, *sides, f"{name}: ")
        records.append(
            {
                "class": split.classes[cls],
                "true": same,
                "similarity": panel.matching.similarity,
                "not_converged": failed,
            }
        )
        panels.append(panel)
    matches(out, panels, flows)
    return records


def two(left: Path, right: Path, spec: ImageSpec) -> LooseImages:
    """Two image files. Raises `DataError` when they are more or fewer."""
    images = LooseImages([left, right], spec)
    if len(images) != 2:
        raise DataError(f"{left} and {right} hold {len(images)} images; give two image files")
    return images


def against(model: Model, episode: int, query: int) -> tuple[int, list[tuple[int, int, bool]]]:
    """A query of an episode, and for each class its index, its first support image and whether it is the query's.

    Raises `DataError` for a query that the episode does not have.
    """
    chosen = model.sampler(episode)
    if query >= chosen.query.numel():
        raise DataError(
            f"--query {query}: an episode of recipe {model.recipe.name} has the queries 0 to {chosen.query.numel() - 1}"
        )
    truth = int(chosen.labels()[query])
    first = enumerate(zip(chosen.classes, chosen.support[:, 0].tolist(), strict=True))
    return int(chosen.query.flatten()[query]), [(cls, support, place == truth) for place, (cls, support) in first]


def shown(recipe: Recipe, images: ImageSet, picks: list[int], whole: bool = False) -> tuple[Tensor, Tensor]:
    """Images of a set to draw, [P,3,S,S] in [0,1], as the network sees them, or `whole`; and their sizes [P,2]."""
    image = recipe.image
    if isinstance(images, Split) and images.channels is not None:  # features have no image: how strong they are
        norms = images.maps()[picks].norm(dim=1, keepdim=True)
        grey = norms / norms.amax((2, 3), keepdim=True).clamp(min=1e-12)
        large = torch.nn.functional.interpolate(grey, (SHOWN, SHOWN), mode="nearest").expand(-1, 3, -1, -1)
        return large, torch.tensor([list(norms.shape[2:])] * len(picks), dtype=torch.float32)
    side = max(1, -(-SHOWN // image.decoded)) * image.decoded
    pixels, sizes = images.decode(side, recipe.dataset.crop, only=picks)
    edge = 0 if whole else (image.decoded - image.size) * side // image.decoded // 2
    return (pixels.float() / 255)[..., edge : side - edge, edge : side - edge], sizes


def parts_with(
    recipe: Recipe, given: Path | None, root: Path, device: torch.device, contract: type, lacks: str
) -> Model:
    """The recipe's model with a head of an ability. Raises `RecipeError` for another, saying what it `lacks`, with the
    names of those that have it in place of `{heads}`.
    """
    model = Model.open(recipe, root, Processes(device), given)
    check_able(model, contract, lacks)
    return model


def check_able(model: Model, contract: type, lacks: str) -> None:
    """Raise `RecipeError` as `parts_with`."""
    if not isinstance(model.head, contract):
        able = registry.able("heads", contract)
        lacks = lacks.format(heads=" or ".join(able), first=able[0])
        raise RecipeError(f"recipe {model.recipe.name} has head {model.recipe.head.name}, which {lacks}")


def pair_panel(model: Model, left: Side, right: Side, label: str) -> tuple[Panel, int]:
    """A panel of two images, and how many of its problems the solver gave up on; the similarity follows the label."""
    patched = model.extractor.patches > 0
    both = [shown(model.recipe, side.images, [side.place], whole=patched) for side in (left, right)]
    seen, sizes = (torch.cat(parts) for parts in zip(*both, strict=True))
    patches = Patches(model.recipe)
    assert isinstance(model.head, Matches)  # or `check_able` had refused it
    with transport.ledger() as ledger:
        matching = model.head.match(left.map, right.map)
    if patched:
        names = [side.images.identities()[side.place] for side in (left, right)]
        boxes = torch.stack([patches(name, size)[0] for name, size in zip(names, sizes, strict=True)])
        places = model.extractor.tiles(boxes[0])
    else:
        places, boxes = matching.places, matching.places[None].expand(2, -1, -1)
    title = f"{label}{matching.similarity:.3f}"
    return Panel(seen[0], seen[1], places, boxes[0], boxes[1], matching, title), sum(ledger.failures(1))


def matches(path: Path, panels: list[Panel], flows: bool) -> None:
    """Write what `draw` draws. Raises `DataError` when the file cannot be written."""
    save(path, draw(panels, flows))


def draw(panels: list[Panel], flows: bool) -> Any:
    """A row for each `Panel`: left, left rebuilt from the right, right; with `flows` both again and lines
    between.

    A line joins the centres of two nodes and is as strong as the flow between them.
    """
    plt = _pyplot()
    columns, width = (4, 11.5) if flows else (3, 6.6)
    ratios = [1, 1, 1, 2.1][:columns]
    figure, axes = plt.subplots(
        len(panels),
        columns,
        figsize=(width, 2.4 * len(panels)),
        layout="constrained",
        squeeze=False,
        width_ratios=ratios,
    )
    for row, panel in zip(axes, panels, strict=True):
        for axis, image in zip(row, (panel.left, panel.rebuilt(), panel.right), strict=False):
            axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        row[1].set_title(panel.title, fontsize=9)
        if flows:
            _flows(row[3], panel)
        for axis in row:  # switching the axis off would leave the title out of the layout
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    return figure


def _flows(axis: Any, panel: Panel) -> None:
    side = panel.left.shape[-1]
    gap = side // 10
    for image, at in ((panel.left, 0), (panel.right, side + gap)):
        axis.imshow(
            image.permute(1, 2, 0).clamp(0, 1).numpy(), extent=(at, at + side, side, 0), interpolation="nearest"
        )
    start, end = ((boxes[:, :2] + boxes[:, 2:] / 2) * side for boxes in (panel.left_boxes, panel.right_boxes))
    strength = panel.matching.flow / panel.matching.flow.max()
    for i, j in (panel.matching.flow > 0).nonzero().tolist():
        ends = (start[i, 0], end[j, 0] + side + gap), (start[i, 1], end[j, 1])
        axis.plot(
            *ends, color="yellow", linewidth=0.3 + 2 * float(strength[i, j]), alpha=min(1, 0.15 + float(strength[i, j]))
        )
    axis.set(xlim=(0, 2 * side + gap), ylim=(side, 0))
