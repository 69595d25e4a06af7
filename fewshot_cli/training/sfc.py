"""A user's own classifier: a structured fully connected layer learned on a folder of support pictures."""

from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import build, checkpoint, transport
from fewshot_cli.contracts import Head
from fewshot_cli.data.archive import Source
from fewshot_cli.data.common import by_class_folder
from fewshot_cli.data.store import decode_picture
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.evaluate import load_parts
from fewshot_cli.features import embed
from fewshot_cli.recipe import Recipe
from fewshot_cli.runs import versions

LAYER = "sfc.layer"


def finetune(recipe: Recipe, support: Path, target: Path, given: Path | None, device: torch.device) -> dict[str, Any]:
    """Learn the layer on `support/<class>/<picture>` and write it to `target` with a sidecar; returns a summary.

    Classes may have different numbers of pictures. Raises `DataError` for fewer than two classes or undecodable
    pictures, `RecipeError` when the recipe's head has no layer to learn.
    """
    weights = build.weights(recipe, given)
    backbone, head = load_parts(recipe, weights)
    _needs_sfc(recipe, head)
    classes, labels, images = read_folder(support, recipe.image.decoded)
    if len(classes) < 2:
        raise DataError(f"{support}: holds one class ({classes[0]}); a classifier needs at least two class folders")
    nodes = _nodes(recipe, backbone, head, images, device)
    start = torch.stack([nodes[labels == c].mean(0) for c in range(len(classes))])
    with transport.ledger() as book:
        layer = head.learn(start[None], nodes[None], labels)[0]
        fitted = head.score(layer[None], nodes[None])[0].argmax(1).cpu()
    summary = {
        "classes": classes, "pictures": len(labels),
        "support_accuracy": 100 * float((fitted == labels).float().mean()),
        "not_converged": sum(book.failures(1)),
    }  # fmt: skip
    resolved = recipe.resolved()
    digest = checkpoint.save_tensors(target, {LAYER: layer.cpu().contiguous()}, {
        "stage": "finetune-sfc", **summary, "weights": weights.checkpoint.sha256, "versions": versions(),
        **{k: resolved[k] for k in ("backbone", "head", "image")}})  # fmt: skip
    return {**summary, "classifier": str(target), "sha256": digest}


def score(recipe: Recipe, classifier: Path, query: Path, given: Path | None, device: torch.device) -> dict[str, Any]:
    """Accuracy of a fine-tuned classifier on `query/<class>/<picture>`, in the fields of an evaluation's summary.

    The interval is over pictures. Raises `DataError` when the classifier was learned on other weights, or a folder
    names a class it does not know.
    """
    begin = perf_counter()
    made = checkpoint.load(classifier)
    if LAYER not in made.tensors:
        raise DataError(f"{classifier}: is not a classifier of `fsl finetune-sfc`; make one from a support folder first")
    weights = build.weights(recipe, given)
    resolved = recipe.resolved()
    for what, ours in (("weights", weights.checkpoint.sha256), *((k, resolved[k]) for k in ("backbone", "image"))):
        if made.sidecar.get(what) != ours:
            raise DataError(f"{classifier}: was learned with other {what} than recipe {recipe.name} names; give the same "
                            "--recipe and --weights as to `fsl finetune-sfc`")  # fmt: skip
    backbone, head = load_parts(recipe, weights)
    _needs_sfc(recipe, head)
    names = made.sidecar["classes"]
    classes, labels, images = read_folder(query, recipe.image.decoded)
    unknown = [c for c in classes if c not in names]
    if unknown:
        raise DataError(f"{query}: class {unknown[0]} is none of the classifier's ({', '.join(names[:5])}…)")
    nodes = _nodes(recipe, backbone, head, images, device)
    with torch.no_grad(), transport.ledger() as book:
        layer = made.tensors[LAYER].to(nodes.device)
        guess = torch.cat([head.score(layer[None], part[None])[0].argmax(1).cpu() for part in nodes.split(256)])
    truth = torch.tensor([names.index(classes[i]) for i in labels.tolist()])
    share, count = float((guess == truth).float().mean()), len(truth)
    return {
        "recipe": recipe.name, "dataset": str(query), "head": recipe.head.name, "solver": recipe.solver.name,
        "way": len(names), "shot": made.sidecar["pictures"] // len(names), "episodes": 1, "pictures": count,
        "accuracy": 100 * share, "ci95": 196 * (share * (1 - share) / count) ** 0.5,
        "interval": "normal approximation over pictures", "not_converged": sum(book.failures(1)),
        "seconds": {"total": perf_counter() - begin}, "seed": recipe.seed, "weights": weights.label,
        "hashes": {"weights": weights.checkpoint.sha256, "classifier": made.sha256}, "versions": versions(),
    }  # fmt: skip


def read_folder(path: Path, side: int) -> tuple[list[str], Tensor, Tensor]:
    """Class names, labels [N] and pictures uint8 [N,3,side,side] of a folder (or archive) of class folders."""
    with Source(path, path.parent) as files:
        groups = by_class_folder(files.names)
        if not groups:
            raise DataError(f"{path}: holds no pictures in class folders; put them in {path}/<class>/<picture>")
        pictures = [decode_picture(files.read(n), f"{path}/{n}", side) for names in groups.values() for n in names]
    labels = torch.tensor([i for i, names in enumerate(groups.values()) for _ in names])
    return list(groups), labels, torch.stack(pictures)


def _needs_sfc(recipe: Recipe, head: Head) -> None:
    if not hasattr(head, "learn"):
        raise RecipeError(f"recipe {recipe.name} has head {recipe.head.name}, which has no layer to learn; use a recipe "
                          "with head sfc, such as glyphs_5w5s, or --set head=sfc")  # fmt: skip


def _nodes(recipe: Recipe, backbone: torch.nn.Module, head: Head, images: Tensor, device: torch.device) -> Tensor:
    maps = embed(backbone.to(device), images, recipe.image, device)
    return maps.to(build.matching_device(head, device)).flatten(-2).mT
