"""Where a command's weights come from."""

import os
from dataclasses import dataclass
from pathlib import Path

from fewshot_cli.config.schema import Recipe
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.runs import SUMMARY
from fewshot_cli.weights import checkpoint, installed


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
        path = named(given)
        return FoundWeights(str(given) if path == given else installed.label(given.name), checkpoint.load(path))
    name = recipe.start if stages == ("pretrain",) else recipe.weights or recipe.name
    if name in installed.names() and "metatrain" in stages:
        return _installed(name)
    for stage in stages:
        done = [p.parent for p in Path("runs", stage).glob(f"*/{SUMMARY}") if _is_run_of(p.parent.name, name)]
        if done:
            path = max(done, key=lambda p: (p / SUMMARY).stat().st_mtime) / "weights.safetensors"
            say(f"weights: {path}")
            return FoundWeights(str(path), checkpoint.load(path))
    if f"{name}_pretrain" in installed.names():
        return _installed(f"{name}_pretrain")
    if name in installed.BESIDE:
        raise DataError(
            f"recipe {recipe.name}: its weights {name} are in the package fewshot-cli-weights, which is not installed; "
            "pip install 'fewshot-cli[weights]' (in a checkout: pip install ./weights), or train your own "
            f"(fsl pretrain --recipe {recipe.name}), or give --weights"
        )
    todo = "pretrain" if stages == ("pretrain",) else "pretrain and metatrain"
    raise DataError(
        f"no weights for recipe {recipe.name}: no installed package provides {name} and runs/ holds no finished run; "
        f"{todo} first (fsl pretrain --recipe {recipe.name}) or give --weights; `fsl weights list` shows what there is"
    )


def named(given: Path) -> Path:
    """The file that `--weights` means: a path, or the name of installed weights."""
    file = Path(os.path.expanduser(given))
    return installed.file(given.name) if not file.is_file() and str(given) in installed.names() else file


def _installed(name: str) -> FoundWeights:
    return FoundWeights(installed.label(name), checkpoint.load(installed.file(name)))


def _is_run_of(folder: str, name: str) -> bool:
    return folder == name or (folder.startswith(f"{name}-") and folder[len(name) + 1 :].isdigit())
