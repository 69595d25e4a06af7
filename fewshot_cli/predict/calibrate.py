"""The temperature of a user's own classes, from labelled images or from the examples alone."""

from pathlib import Path
from typing import Any

import torch

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.user_images import TAKING, Folder, Taking, all_bad_of, omissions
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.calibration import calibration_error, reliability, temperature
from fewshot_cli.evaluation.model import Model
from fewshot_cli.evaluation.support import held_out
from fewshot_cli.predict.labeller import from_examples, support_set
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import versions

LEAST = 4  # images, two for each half


@torch.no_grad()
def calibrate(
    recipe: Recipe,
    support: Path,
    labelled: Path | None,
    given: Path | None,
    root: Path,
    device: torch.device,
    taking: Taking = TAKING,
) -> dict[str, Any]:
    """Temperature, expected calibration error before and after, and the intervals of both reliability diagrams.

    Without `labelled` images each example of a class that has several is left out of the support set once. Raises
    `DataError` for too few of them, for unknown classes, and as `from_examples` does.
    """
    model = Model.open(recipe, root, Processes(device), given)
    examples = support_set(support, recipe, root, taking)
    asked = Folder(labelled, "--labelled", recipe.image, taking) if labelled else None
    with all_bad_of(examples, asked), transport.ledger() as ledger:
        made = from_examples(model, examples, support)
        assert made.examples is not None
        if asked is not None:
            if unknown := [name for name in asked.classes if name not in made.classes]:
                raise DataError(
                    f"{labelled}: class {unknown[0]} is none of {support}'s ({', '.join(made.classes[:5])}…)"
                )
            logits = made.score(model.features(asked)).cpu()
            labels = torch.tensor([made.classes.index(asked.classes[i]) for i in asked.labels.tolist()])
        else:
            logits, labels = (x.cpu() for x in made.examples.left_out(model.head))
    if len(labels) < LEAST:
        raise DataError(
            f"{labelled or support}: {len(labels)} images are too few to calibrate with; give --labelled images, or "
            "more examples of each class"
        )
    found = {"before": logits.softmax(1), "after": held_out(logits, labels)}
    return {
        "format": 1,
        "recipe": recipe.name,
        "head": recipe.head.name,
        "weights": model.weights.label,
        "support": dict(zip(made.classes, made.counts, strict=True)),
        "labelled": labelled is not None,
        "images": len(labels),
        "accuracy": 100 * float((logits.argmax(1) == labels).float().mean()),
        "temperature": temperature(logits, labels),
        **{name: calibration_error(p, labels) for name, p in found.items()},
        "bins": {name: [one._asdict() for one in reliability(p, labels)] for name, p in found.items()},
        **omissions(examples, asked),
        "not_converged": sum(ledger.failures(1)),
        "versions": versions(),
    }
