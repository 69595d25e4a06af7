"""Where a command's weights come from."""

from dataclasses import dataclass
from pathlib import Path

from fewshot_cli.config.schema import Recipe
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.runs import SUMMARY
from fewshot_cli.weights import checkpoint


@dataclass(frozen=True)
class FoundWeights:
    """Where a verb's weights come from, with the loaded checkpoint."""

    label: str
    checkpoint: checkpoint.Checkpoint


def find_weights(
    recipe: Recipe, given: Path | None, stages: tuple[str, ...] = ("metatrain", "pretrain")
) -> FoundWeights:
    """`--weights`, else the recipe's shipped weights, else the newest finished training run in `runs/`, else the
    shipped weights of its pre-training.

    `stages` are the training verbs whose runs count, best first. Raises `DataError` with the command to type next.
    """
    if given is not None:
        return FoundWeights(str(given), checkpoint.load(given))
    name = recipe.start if stages == ("pretrain",) else recipe.weights or recipe.name
    shipped = checkpoint.shipped()
    if name in shipped and "metatrain" in stages:
        return FoundWeights(f"shipped:{name}", checkpoint.load(shipped[name]))
    for stage in stages:
        done = [p.parent for p in Path("runs", stage).glob(f"*/{SUMMARY}") if _is_run_of(p.parent.name, name)]
        if done:
            path = max(done, key=lambda p: (p / SUMMARY).stat().st_mtime) / "weights.safetensors"
            say(f"weights: {path}")
            return FoundWeights(str(path), checkpoint.load(path))
    if f"{name}_pretrain" in shipped:
        return FoundWeights(f"shipped:{name}_pretrain", checkpoint.load(shipped[f"{name}_pretrain"]))
    todo = "pretrain" if stages == ("pretrain",) else "pretrain and metatrain"
    raise DataError(
        f"no weights for recipe {recipe.name}: none named {name} ship and no finished run is in runs/; "
        f"{todo} first (fsl pretrain --recipe {recipe.name}) or give --weights FILE"
    )


def _is_run_of(folder: str, name: str) -> bool:
    return folder == name or (folder.startswith(f"{name}-") and folder[len(name) + 1 :].isdigit())
