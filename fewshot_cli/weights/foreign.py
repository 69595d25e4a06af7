"""Whose tensors a foreign state dict holds, and the same tensors by our backbones' names.

A backbone declares the layouts it can be read from (`contracts.Layout`): lists of convolutions, each followed by its
batch norm, with their names there and here. Every check and every message follows from these.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from fewshot_cli import registry
from fewshot_cli.config.faults import in_words
from fewshot_cli.contracts import Layout, Step
from fewshot_cli.errors import DataError, RecipeError

WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|_forward_module)\.)*")  # around a whole network, its classifier too
_AVERAGE = r"(?:^|[._])(?:ema|teacher|momentum|target|swa|averaged?)(?:[._]|$)"  # beside the network itself
COPY = re.compile(_AVERAGE + r"|_[km](?:\.|$)", re.IGNORECASE)
CLASSIFIER = re.compile(r"(?:module\.)*(?:fc|head|classifier\w*|linear|logits|last_linear)(?:\.|$)", re.IGNORECASE)
STATISTICS = ("weight", "bias", "running_mean", "running_var")


class Recognised(NamedTuple):
    """The registered name of a backbone, the layout of its tensors, and the prefix of their keys."""

    backbone: str
    layout: Layout
    prefix: str


@dataclass(frozen=True)
class Translation:
    """Tensors by our names, the backbone they belong to, its options as far as tensors show them, and the keys left
    out.
    """

    backbone: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]
    left_out: list[str]


def layouts() -> Iterator[tuple[str, Layout]]:
    """Every layout that an installed backbone declares, with the backbone's name; one that does not import has none."""
    for name in registry.entries("backbones"):
        with suppress(RecipeError):
            yield from ((name, layout) for layout in registry.backbone(name).layouts)


def recognise(tensors: dict[str, Tensor]) -> Recognised | None:
    """Whose tensors these are, or None. A stem before the blocks, as other ResNets have it, is unknown.

    Of several layouts and prefixes that have the first convolution, the first that finds all its tensors is taken.
    """
    return next(iter(recognised(tensors) or _beginnings(tensors)), None)


def recognised(tensors: dict[str, Tensor]) -> list[Recognised]:
    """Every whole network among the tensors: one's own before its averages, then the shortest prefix."""
    return [
        one
        for one in _beginnings(tensors)
        if all(one.prefix + key in tensors for step in one.layout.steps for key in _needed(step))
    ]


def _beginnings(tensors: dict[str, Tensor]) -> list[Recognised]:
    """The layouts whose first convolution is there; whatever stands before the backbone's own names is a prefix."""
    candidates = []
    for name, layout in layouts():
        end = f".{layout.sign}"
        for key, tensor in tensors.items():
            if (key == layout.sign or key.endswith(end)) and tensor.ndim == 4 and tensor.shape[1] in (1, 3):
                candidates.append(Recognised(name, layout, key.removesuffix(layout.sign)))
    return sorted(candidates, key=lambda one: (bool(COPY.search(one.prefix)), len(one.prefix)))


def nearest(tensors: dict[str, Tensor]) -> str:
    """Which known backbone has the most of these tensors, and what differs, in words; empty where none has any."""
    best: tuple[int, str, Layout] | None = None
    for _, layout in layouts():
        needed = {key for step in layout.steps for key in _needed(step)}
        prefixes: Counter[str] = Counter()
        for key in tensors:
            parts = key.split(".")
            for at in range(len(parts)):
                if ".".join(parts[at:]) in needed:
                    prefixes["".join(f"{part}." for part in parts[:at])] += 1
        for prefix, count in prefixes.most_common(1):
            if best is None or count > best[0]:
                best = (count, prefix, layout)
    if best is None:
        return ""
    count, prefix, layout = best
    needed_keys = [prefix + key for step in layout.steps for key in _needed(step)]
    lacking = next((key for key in needed_keys if key not in tensors), None)
    known = {*needed_keys, *(prefix + key for step in layout.steps for key in _optional(step))}
    other = next((key for key in tensors if key not in known and not CLASSIFIER.match(key.removeprefix(prefix))), None)
    said = [f"it lacks {lacking}"] if lacking else []
    if other:
        said.append(f"it has {_shown(other, tensors[other])} besides")
    return f"; the nearest is {layout.title}, of whose {len(needed_keys)} tensors it has {count}: {' and '.join(said)}"


def _shown(key: str, tensor: Tensor) -> str:
    return f"{key[:60]} {list(tensor.shape)}"


def translate(tensors: dict[str, Tensor], where: Path | str) -> Translation:
    """Tensors of a foreign state dict by our names; those of a classifier, or outside the encoder, are left out.

    Raises `DataError`, beginning with `where`, for an unknown architecture, a missing or unknown key and a wrong shape.
    """
    if (recognised := recognise(tensors)) is None:
        first = ", ".join(_shown(key, tensor) for key, tensor in list(tensors.items())[:4])
        raise DataError(
            f"{where}: its {len(tensors)} tensors are of no known backbone (the first are {first}){nearest(tensors)}; "
            "understood are " + "; ".join(f"{layout.title} ({layout.sign})" for _, layout in layouts())
        )
    backbone, layout, prefix = recognised
    body = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    left_out = _others(tensors, recognised, where)
    widths = _widths(body, recognised, where)
    for key, shape in _shapes(layout, widths):
        if key in body and tuple(body[key].shape) != shape:
            raise DataError(
                f"{where}: {prefix}{key} is {list(body[key].shape)}, {backbone} of {_said(widths)} needs "
                f"{list(shape)}; give the weights of an unchanged one"
            )
    ours = {key: tensor for step in layout.steps for key, tensor in _named(step, body)}
    return Translation(backbone, layout.options(widths), ours, left_out)


def head_of(tensors: dict[str, Tensor], left_out: list[str]) -> tuple[str, dict[str, Tensor], list[str]] | None:
    """The head whose tensors are among the keys that a backbone's translation left out: its name, the tensors by our
    names, and the keys; None where no head's are all there.
    """
    for name in registry.entries("heads"):
        with suppress(RecipeError):
            for layout in registry.head(name).layouts:
                for prefix in ("", "module."):
                    keys = [prefix + theirs for theirs in layout.names]
                    if all(key in left_out for key in keys):
                        named = zip(layout.names.values(), keys, strict=True)
                        return name, {ours: tensors[key] for ours, key in named}, keys
    return None


def _others(tensors: dict[str, Tensor], recognised: Recognised, where: Path | str) -> list[str]:
    """Keys that are not the backbone's. Raises `DataError` for one that may have changed what it computes."""
    backbone, layout, prefix = recognised
    known = {f"{prefix}{key}" for step in layout.steps for key in (*_needed(step), *_optional(step))}
    inside = not WRAPPERS.fullmatch(prefix)  # a prefix that names the encoder: all else belongs to another part
    others = [key for key in tensors if key not in known]
    for key in others:
        outside = inside and not key.startswith(prefix)
        if not outside and not CLASSIFIER.match(key.removeprefix(prefix)):
            raise DataError(
                f"{where}: holds {key[:60]}, which {backbone} does not have; give the weights of an unchanged one"
            )
    return others


def _widths(body: dict[str, Tensor], recognised: Recognised, where: Path | str) -> list[int]:
    """The layout's widths, each read from the first convolution that has it. Raises `DataError` for those that the
    backbone does not take.
    """
    backbone, layout, prefix = recognised
    for key in (key for step in layout.steps for key in _needed(step)):
        if key not in body:
            raise DataError(f"{where}: has no {prefix}{key}, which {backbone} needs; give the whole network's weights")
    read: dict[int, int] = {}
    for step in layout.steps:
        weight = body[f"{step.conv}.weight"]
        read.setdefault(step.outputs, len(weight) if weight.ndim else 0)
    widths = [read[place] for place in sorted(read)]
    try:
        registry.backbone(backbone).Options(**layout.options(widths))
    except ValidationError as error:
        raise DataError(
            f"{where}: is of {_said(widths)}, which {backbone} does not take "
            f"({in_words(error.errors(include_url=False)[0])}); give the weights of an unchanged one"
        ) from error
    return widths


def _said(widths: list[int]) -> str:
    return f"width{'s' if len(widths) > 1 else ''} {'-'.join(map(str, widths))}"


def _shapes(layout: Layout, widths: list[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    channels = [*widths, 3]  # -1 is the image
    for step in layout.steps:
        inputs, outputs = channels[step.inputs], channels[step.outputs]
        yield f"{step.conv}.weight", (outputs, inputs, step.size, step.size)
        yield f"{step.conv}.bias", (outputs,)
        yield f"{step.norm}.num_batches_tracked", ()
        for name in STATISTICS:
            yield f"{step.norm}.{name}", (outputs,)


def _named(step: Step, body: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A step's tensors by our names; a bias before a batch norm only shifts the mean that the norm takes away."""
    yield f"{step.our_conv}.weight", body[f"{step.conv}.weight"]
    for name in STATISTICS:
        tensor = body[f"{step.norm}.{name}"]
        if name == "running_mean" and f"{step.conv}.bias" in body:
            tensor = tensor.double() - body[f"{step.conv}.bias"].double()
        yield f"{step.our_norm}.{name}", tensor
    # PyTorch before 0.4.1 did not count batches; evaluation does not read the count
    yield f"{step.our_norm}.num_batches_tracked", body.get(f"{step.norm}.num_batches_tracked", torch.tensor(0))


def _needed(step: Step) -> list[str]:
    return [f"{step.conv}.weight", *(f"{step.norm}.{name}" for name in STATISTICS)]


def _optional(step: Step) -> list[str]:
    return [f"{step.conv}.bias", f"{step.norm}.num_batches_tracked"]
