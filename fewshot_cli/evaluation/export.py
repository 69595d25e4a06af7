"""A split's features as a file."""

from pathlib import Path

from fewshot_cli.data.arrays import Arrays, write
from fewshot_cli.evaluation.model import Model


def export(model: Model, out: Path) -> tuple[int, ...]:
    """Write the features of the model's split with classes, names and splits, and return their shape."""
    split = model.split
    maps = model.features().cpu().numpy()
    labels = [split.classes[c] for c in split.labels.tolist()]
    facts = {
        "recipe": model.recipe.name,
        "weights": model.weights.checkpoint.sha256,
        "source": model.weights.label,
        "data": split.sha256,
    }
    write(out, Arrays(maps, labels, split.names, [split.split] * len(labels)), facts)
    return maps.shape
