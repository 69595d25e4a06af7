"""What matches what in two image files, or in a query and the classes of its episode (DeepEMD, CVPR 2020, Figure 5)."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot_cli import registry, transport
from fewshot_cli.config.schema import ImageSpec, Recipe
from fewshot_cli.contracts import Matches
from fewshot_cli.data.store import ImageSet, Split
from fewshot_cli.data.user_images import LooseImages
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.evaluation.model import Model
from fewshot_cli.features.embed import Patches
from fewshot_cli.figures.pairs import matches
from fewshot_cli.figures.panel import Panel, Verdict
from fewshot_cli.figures.style import plain_names
from fewshot_cli.runtime.processes import Processes

SHOWN = 800  # pixels of a drawn image's longer side, at most
NO_FLOW = "has no flow between two images; use a 1-shot recipe with head {heads}, or --set head={first}"


class Side(NamedTuple):
    """One image of a pair: a set, its place there, and its map [d,h,w]."""

    images: ImageSet
    place: int
    map: Tensor


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
    captions = f"query: {left.name}", f"support: {right.name}"
    panel, failed = pair_panel(model, Side(images, 0, maps[0]), Side(images, 1, maps[1]), captions)
    matches(out, [panel], flows)
    return [{"left": str(left), "right": str(right), "similarity": panel.matching.similarity, "not_converged": failed}]


@torch.no_grad()
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
    """Draw how one query of an episode matches every class's first support image, the classes in the order of the
    query's logits; returns a record per class in the order of the episode.
    """
    model = parts_with(recipe, given, root, device, Matches, NO_FLOW)
    split, maps = model.split, model.features()
    left, others = against(model, episode, query)
    support = maps[model.sampler(episode).support]  # [way,shot,d,h,w]
    ranked = model.head(support[None], maps[left][None, None])[0, 0].argsort(descending=True, stable=True).tolist()
    names = plain_names(split.classes[cls] for cls, _, _ in others)
    truth = next(names[split.classes[cls]] for cls, _, same in others if same)
    records, panels = [], []
    for place, (cls, example, same) in enumerate(others):
        name = split.classes[cls]
        captions = f"query: {truth}", f"{ranked.index(place) + 1}. {names[name]}"
        sides = Side(split, left, maps[left]), Side(split, example, maps[example])
        panel, failed = pair_panel(model, *sides, captions, _verdict(place == ranked[0], same))
        similarity = panel.matching.similarity
        records.append({"class": name, "true": same, "similarity": similarity, "not_converged": failed})
        panels.append(panel)
    taken = names[split.classes[others[ranked[0]][0]]]
    said = f"{truth}, recognised" if taken == truth else f"{truth}, taken for {taken}"
    title = f"{recipe.name}, episode {episode}, query {query}: {said}"
    matches(out, [panels[place] for place in ranked], flows, title)
    return records


def _verdict(predicted: bool, same: bool) -> Verdict | None:
    if predicted:
        return "right" if same else "wrong"
    return "truth" if same else None


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


def shown(recipe: Recipe, images: ImageSet, pick: int, whole: bool = False) -> tuple[Tensor, Tensor]:
    """An image of a set to draw, [3,H,W] in [0,1] in its own proportions: what the network sees of it, or the `whole`;
    and its size [2] (h, w).
    """
    if isinstance(images, Split) and images.channels is not None:  # features have no image: how strong they are
        norm = images.maps()[pick].norm(dim=0, keepdim=True)
        return (norm / norm.max().clamp(min=1e-12)).expand(3, -1, -1), torch.tensor(norm.shape[1:])
    pixels, size = images.viewed(pick, SHOWN, recipe.dataset.crop)
    share = 0 if whole else (1 - recipe.image.size / recipe.image.decoded) / 2  # the network sees the middle
    top, side = (round(share * length) for length in pixels.shape[1:])
    high, wide = pixels.shape[1:]
    return (pixels.float() / 255)[:, top : high - top, side : wide - side], size.float()


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


def pair_panel(
    model: Model, left: Side, right: Side, captions: tuple[str, str], verdict: Verdict | None = None
) -> tuple[Panel, int]:
    """A panel of two images, and how many of its problems the solver gave up on."""
    patched = model.extractor.patches > 0
    (first, size), (second, other) = (shown(model.recipe, side.images, side.place, patched) for side in (left, right))
    assert isinstance(model.head, Matches)  # or `check_able` had refused it
    with transport.ledger() as ledger:
        matching = model.head.match(left.map, right.map)
    if patched:
        patches = Patches(model.recipe)
        names = [side.images.identities()[side.place] for side in (left, right)]
        boxes = [patches(name, one)[0] for name, one in zip(names, (size, other), strict=True)]
        places, others = (model.extractor.tiles(one) for one in boxes)
    else:
        places = others = matching.places.cpu()
        boxes = [places, others]
    panel = Panel(first, second, places, others, boxes[1], matching, captions, verdict)
    return panel, sum(ledger.failures(1))
