"""Why an image got its label: what in it matches what in the most similar example of that class."""

from collections.abc import Callable
from pathlib import Path

import torch

from fewshot_cli.contracts import Matches, Matching
from fewshot_cli.data.user_images import LabelledSet, LooseImages
from fewshot_cli.evaluation.model import Model
from fewshot_cli.figures.matching import NO_FLOW, Side, check_able, pair_panel
from fewshot_cli.figures.pairs import matches
from fewshot_cli.figures.style import plain

PART = 16  # images that are in memory at once


@torch.no_grad()
def explain(
    model: Model,
    images: LooseImages,
    labels: list[str],
    examples: LabelledSet,
    folder: Path,
    tick: Callable[[int], None],
) -> int:
    """Draw a figure for each image, `<number>-<its name>.png` in order, and return their number: the image, the example
    of its label that matches it best, and what of it matches.

    Raises `RecipeError` for a head without a flow between two images.
    """
    check_able(model, Matches, NO_FLOW)
    assert isinstance(model.head, Matches)
    match: Callable[..., Matching] = model.head.match
    support, number = model.features(examples), 0
    for part in images.parts(PART):
        for place, own in enumerate(model.features_once(part)):
            name, label = Path(part.names[place]), plain(labels[number])
            mine = torch.nonzero(examples.labels == examples.classes.index(labels[number])).flatten().tolist()
            best = max(mine, key=lambda i: match(own, support[i]).similarity)
            captions = f"query: {name.name}", f"most similar example: {Path(examples.names[best]).name}"
            panel, _ = pair_panel(model, Side(part, place, own), Side(examples, best, support[best]), captions)
            number += 1
            matches(folder / f"{number:04}-{name.stem}.png", [panel], title=f"most like {label}")
            tick(number)
    return number
