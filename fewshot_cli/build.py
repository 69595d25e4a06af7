"""Construct what a recipe names: solver, backbone with weights, head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewshot_cli import checkpoint, registry
from fewshot_cli.console import say
from fewshot_cli.contracts import Backbone, Classifier, DatasetBuilder, Extractor, Head, Solver
from fewshot_cli.data.download import fetch
from fewshot_cli.data.store import Store, StoreWriter, open_store
from fewshot_cli.device import home_of
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.runs import SUMMARY
from fewshot_cli.schema import PartSpec, Recipe


def solver(spec: PartSpec) -> Solver:
    """The solver. Raises `RecipeError` with the install command when it cannot run here."""
    cls = registry.part("solvers", spec.name)
    if (reason := cls.works()) is not None:
        raise RecipeError(f"solver {spec.name}: {reason}")
    return cls(spec.options)


def backbone(recipe: Recipe) -> Backbone:
    """The backbone with fresh weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    return registry.part("backbones", recipe.backbone.name)(recipe.backbone.options)


def extractor(recipe: Recipe) -> Extractor:
    """The extractor."""
    return registry.part("extractors", recipe.extractor.name)(recipe.extractor.options)


def side(recipe: Recipe) -> int:
    """Side of the decoded pictures that the recipe's features are taken from."""
    return extractor(recipe).side(recipe.image.size, recipe.image.decoded)


def head(spec: PartSpec, channels: int, solver_spec: PartSpec) -> Head:
    """A head, with its solver when it needs one."""
    cls = registry.part("heads", spec.name)
    own = solver(solver_spec) if cls.needs_solver else None
    return cls(spec.options, channels=channels, solver=own)


def classifier(spec: PartSpec, channels: int, classes: int, solver_spec: PartSpec, device: torch.device) -> Classifier:
    """A classifier with fresh weights on the device, with its solver when it needs one.

    Raises `RecipeError` when the solver cannot work there.
    """
    cls = registry.part("classifiers", spec.name)
    if not cls.needs_solver:
        return cls(spec.options, channels=channels, classes=classes).to(device)
    own = solver(solver_spec)
    if device.type not in own.devices:
        raise RecipeError(
            f"classifier {spec.name}: solver {solver_spec.name} takes no tensors on {device.type}; "
            "--solver sinkhorn does"
        )
    return cls(spec.options, channels=channels, classes=classes, solver=own).to(device)


def matching_device(head_: Head, device: torch.device) -> torch.device:
    """Where a head's inputs must be: its solver may take CPU tensors only."""
    return home_of(head_.solver, device)


@dataclass(frozen=True)
class Weights:
    """Where a verb's weights come from, with the loaded checkpoint."""

    label: str
    checkpoint: checkpoint.Checkpoint


def weights(recipe: Recipe, given: Path | None, stages: tuple[str, ...] = ("metatrain", "pretrain")) -> Weights:
    """`--weights`, else the recipe's shipped weights, else the newest finished training run in `runs/`, else the
    shipped weights of its pre-training.

    `stages` are the training verbs whose runs count, best first. Raises `DataError` with the command to type next.
    """
    if given is not None:
        return Weights(str(given), checkpoint.load(given))
    name = recipe.start if stages == ("pretrain",) else recipe.weights or recipe.name
    shipped = checkpoint.shipped()
    if name in shipped and "metatrain" in stages:
        return Weights(f"shipped:{name}", checkpoint.load(shipped[name]))
    for stage in stages:
        done = [p.parent for p in Path("runs", stage).glob(f"*/{SUMMARY}") if _is_run_of(p.parent.name, name)]
        if done:
            path = max(done, key=lambda p: (p / SUMMARY).stat().st_mtime) / "weights.safetensors"
            say(f"weights: {path}")
            return Weights(str(path), checkpoint.load(path))
    if f"{name}_pretrain" in shipped:
        return Weights(f"shipped:{name}_pretrain", checkpoint.load(shipped[f"{name}_pretrain"]))
    todo = "pretrain" if stages == ("pretrain",) else "pretrain and metatrain"
    raise DataError(
        f"no weights for recipe {recipe.name}: none named {name} ship and no finished run is in runs/; "
        f"{todo} first (fsl pretrain --recipe {recipe.name}) or give --weights FILE"
    )


def _is_run_of(folder: str, name: str) -> bool:
    return folder == name or (folder.startswith(f"{name}-") and folder[len(name) + 1 :].isdigit())


def store(recipe: Recipe, root: Path) -> Store:
    """The recipe's packed store; an embedded dataset is made on first use. Raises `DataError` when it is not
    prepared.
    """
    builder = registry.part("datasets", recipe.dataset.name)
    if builder.embedded and not (root / recipe.store).exists():
        say(f"making the embedded dataset {recipe.store} in {root} …")
        prepare(recipe.store, builder(), [], root)
    return open_store(root, recipe.store)


def sources(dataset: str, given: Path | None, root: Path) -> list[Path]:
    """What a dataset is made from: `given`, else its public archives, downloaded. Raises `DataError` when it has
    none.
    """
    cls = registry.part("datasets", dataset)
    if given is None and not cls.urls and not cls.embedded:
        raise DataError(f"{dataset}: give --from {cls.source}")
    if given is not None:
        return [given]
    return [fetch(url, root / "downloads" / file, digest) for file, (url, digest) in cls.urls.items()]


def prepare(name: str, builder: DatasetBuilder, sources: list[Path], root: Path) -> dict[str, Any]:
    """Build the store `name` and return its report; nothing is left behind on failure."""
    info = {
        "dataset": type(builder).__name__,
        "options": builder.options.model_dump(),
        "licence": builder.licence,
        "sources": [{"name": p.name, "sha256": _digest(p)} for p in sources],
    }
    with StoreWriter(root, name, info) as writer:
        builder.build(sources, writer)
        return writer.finish(builder.sha256)


def _digest(path: Path) -> str | None:
    from fewshot_cli.files import guarded, sha256

    with guarded(path):
        return sha256(path) if path.is_file() else None
