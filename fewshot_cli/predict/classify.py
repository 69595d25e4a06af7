"""Labels for a user's own images from a folder of a few examples per class."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Learns
from fewshot_cli.data.user_images import TAKING, Folder, LooseImages, Taking, all_bad_of, omissions
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.model import Model
from fewshot_cli.runtime.console import progress
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import versions

PART = 16  # images that are in memory, and scored, at once


@torch.no_grad()
def classify(
    recipe: Recipe,
    paths: list[Path],
    support: Path,
    given: Path | None,
    root: Path,
    device: torch.device,
    taking: Taking = TAKING,
) -> dict[str, Any]:
    """Label every image of `paths` with a class of `support/<class>/<image>`.

    A head with a layer to learn (sfc) takes any number of examples per class, others the same number for all; with one
    example each, both are DeepEMD's 1-shot matching. A score is the softmax of the logits. Raises `DataError` for fewer
    than two classes, images that do not decode, and unequal numbers where the head needs equal ones.
    """
    model = Model.open(recipe, root, Processes(device), given)
    folder = Folder(support, "--support", recipe.image, taking)
    images = LooseImages(paths, recipe.image, taking)
    if len(folder.classes) < 2:
        raise DataError(f"{support}: holds one class ({folder.classes[0]}); to tell classes apart takes two or more")
    counts = torch.bincount(folder.labels).tolist()
    learner = model.head if isinstance(model.head, Learns) and max(counts) > 1 else None
    if learner is None and min(counts) < max(counts):
        few, many = (folder.classes[counts.index(f(counts))] for f in (min, max))
        raise DataError(
            f"{support}: class {few} has {min(counts)} images, {many} has {max(counts)}; head {recipe.head.name} "
            "needs the same number of each; --set head=sfc takes any"
        )
    logits = []
    with all_bad_of(folder, images), transport.ledger() as ledger:
        examples = model.features(folder)
        if learner is not None:
            score = partial(learner.score, learner.learn(examples[None], folder.labels))
        else:
            score = partial(model.head, examples.unflatten(0, (len(counts), -1))[None])
        with progress("classify", len(images)) as bar:
            for part in images.parts(PART):
                logits.append(score(model.features_once(part)[None])[0])
                bar.update(sum(map(len, logits)))
    scores = torch.cat(logits).softmax(1).cpu().tolist()
    rows = []
    for name, row in zip(images.names, scores, strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        rows.append(
            {
                "picture": name,
                "label": folder.classes[best],
                "score": row[best],
                "scores": dict(zip(folder.classes, row, strict=True)),
            }
        )
    return {
        "format": 1,
        "recipe": recipe.name,
        "head": recipe.head.name,
        "weights": model.weights.label,
        "support": dict(zip(folder.classes, counts, strict=True)),
        "pictures": rows,
        **omissions(folder, images),
        "not_converged": sum(ledger.failures(1)),
        "versions": versions(),
    }
