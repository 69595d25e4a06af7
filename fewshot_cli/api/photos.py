"""A user's own images from Python: labels by a few examples, and what matches what in two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.api.results import Prediction, Predictions
from fewshot_cli.api.work import PathLike, path_of, recipe_of
from fewshot_cli.contracts import Matches
from fewshot_cli.data.user_images import TAKING
from fewshot_cli.figures import matching as figures
from fewshot_cli.figures import pairs
from fewshot_cli.figures.panel import Panel
from fewshot_cli.predict.classify import Asked, Classification
from fewshot_cli.predict.defaults import recipe_for_photos
from fewshot_cli.runtime import roots
from fewshot_cli.runtime.device import resolve


def classify(
    images: PathLike | Sequence[PathLike],
    support: PathLike,
    *,
    recipe: PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: PathLike | None = None,
    reject: float | None = None,
    coverage: float | None = None,
    data_root: PathLike | None = None,
    device: str = "auto",
    **overrides: Any,
) -> Predictions:
    """Labels of image files, or of all images in folders, by the examples in `support`, as `fsl classify` gives them.

    `support` holds a folder for each class, or is an archive, a CSV of `file,label` or a prepared dataset. Without
    `recipe` it is the best for photos whose weights are installed. `reject` is the share of images of none of the
    classes that may still get a label; `coverage` asks for sets of labels that hold the right one as often. `settings`
    and `overrides` change the recipe as in `evaluate`. Raises `RecipeError` and `DataError`.
    """
    given = [images] if isinstance(images, str | Path) else images
    loaded = recipe_of(recipe or recipe_for_photos(5), settings, overrides)
    made = Classification(
        loaded,
        Path(support),
        None,
        path_of(weights),
        roots.data_root(data_root),
        resolve(device),
        TAKING,
        Asked(reject, coverage),
    )
    _, found = made.label([Path(one) for one in given])
    return Predictions(map(_prediction, found["pictures"]))


def _prediction(row: Mapping[str, Any]) -> Prediction:
    labels = tuple(row["set"]) if "set" in row else None
    scores, probability = row["scores"], row.get("probability")
    return Prediction(row["picture"], row["label"], row["score"], scores, probability, row.get("familiarity"), labels)


@dataclass(frozen=True)
class Match:
    """How two images match: `similarity` is Σ cosine·flow / mass; `flow` [n,m] between their local features, which have
    weights `supply` [n] and `demand` [m] and lie at `places` [n,4] (left, top, width, height, as shares of the image).
    """

    similarity: float
    flow: Tensor
    supply: Tensor
    demand: Tensor
    places: Tensor
    panel: Panel

    def figure(self, *, flows: bool = False) -> Any:
        """A `matplotlib` figure of the two images with the strongest flows between them, or with `flows` all of them,
        and of the first made of the second's patches.
        """
        return pairs.draw([self.panel], flows)

    def save(self, path: PathLike, *, flows: bool = False) -> None:
        """Write the figure as PNG, SVG or PDF by the suffix. Raises `DataError` when the file cannot be written."""
        pairs.matches(Path(path), [self.panel], flows)

    def __repr__(self) -> str:
        return f"Match(similarity={self.similarity:.4f}, flow={list(self.flow.shape)})"


def match(
    first: PathLike,
    second: PathLike,
    *,
    recipe: PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: PathLike | None = None,
    data_root: PathLike | None = None,
    device: str = "auto",
    **overrides: Any,
) -> Match:
    """What in one image file matches what in another, as `fsl match` draws it.

    Without `recipe` it is the best for photos whose weights are installed. `settings` and `overrides` change the recipe
    as in `evaluate`. Raises `RecipeError` for a head without a flow, and `DataError`.
    """
    loaded = recipe_of(recipe or recipe_for_photos(1), settings, overrides)
    root, given = (
        roots.data_root(data_root),
        path_of(weights),
    )
    with torch.no_grad():
        model = figures.parts_with(loaded, given, root, resolve(device), Matches, figures.NO_FLOW)
        images = figures.two(Path(first), Path(second), loaded.image)
        maps = model.features_once(images)
        sides = figures.Side(images, 0, maps[0]), figures.Side(images, 1, maps[1])
        captions = f"query: {Path(first).name}", f"support: {Path(second).name}"
        panel, _ = figures.pair_panel(model, *sides, captions)
    m = panel.matching
    return Match(m.similarity, m.flow, m.supply, m.demand, panel.left_places, panel)
