"""Labels for a user's own images from a folder of a few examples per class."""

from pathlib import Path
from typing import Any

import torch

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Learns
from fewshot_cli.data.user_images import Folder, LooseImages
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.model import Model
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import versions

CALL = 64  # images scored in one call


@torch.no_grad()
def classify(
    recipe: Recipe, paths: list[Path], support: Path, given: Path | None, root: Path, device: torch.device
) -> dict[str, Any]:
    """Label every image of `paths` with a class of `support/<class>/<image>`.

    A head with a layer to learn (sfc) takes any number of examples per class, others the same number for all; with one
    example each, both are DeepEMD's 1-shot matching. A score is the softmax of the logits. Raises `DataError` for fewer
    than two classes, images that do not decode, and unequal numbers where the head needs equal ones.
    """
    model, folder, images = (
        Model.open(recipe, root, Processes(device), given),
        Folder(support, "--support"),
        LooseImages(paths),
    )
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
    examples, queries = model.features(folder), model.features(images)
    with transport.ledger() as ledger:
        if learner is not None:
            layer = learner.learn(examples[None], folder.labels)
            logits = [learner.score(layer, part[None])[0] for part in queries.split(CALL)]
        else:
            shots = examples.unflatten(0, (len(counts), -1))[None]
            logits = [model.head(shots, part[None])[0] for part in queries.split(CALL)]
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
        "not_converged": sum(ledger.failures(1)),
        "versions": versions(),
    }
