"""Whose tensors a foreign state dict holds, and the same tensors by our backbones' names.

A layout is a list of convolutions, each followed by its batch norm, with their names there and here; every check and
every sentence follows from it. Understood: the ResNet-12 of DeepEMD and FEAT, FEAT's four-block ConvNet, and our own
names.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewshot_cli.errors import DataError

PREFIX = r"((?:(?:module|encoder|backbone)\.)*)"  # DataParallel and the models around the backbone
CLASSIFIER = re.compile(r"(?:module\.)*(?:fc|head|classifier\w*)(?:\.|$)", re.IGNORECASE)
STATISTICS = ("weight", "bias", "running_mean", "running_var")
WIDEST = 4096  # of our backbones' options
DEFAULT = {"name": "resnet12", "widths": [64, 160, 320, 640]}  # of the recipe that `fsl import` proposes


class Step(NamedTuple):
    """A convolution and its batch norm, there and here; `inputs` and `outputs` are blocks, -1 the picture."""

    conv: str
    norm: str
    our_conv: str
    our_norm: str
    size: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Layout:
    """One way of naming the tensors of one of our backbones."""

    title: str
    backbone: str
    steps: tuple[Step, ...]

    @property
    def sign(self) -> str:
        """The weight of the convolution that sees the picture, by which a layout is recognised."""
        return f"{self.steps[0].conv}.weight"


@dataclass(frozen=True)
class Translation:
    """Tensors by our names, the backbone they are of, its options as far as tensors tell them, and the keys left
    out.
    """

    backbone: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]
    left_out: list[str]


def recognise(tensors: dict[str, Tensor]) -> tuple[Layout, str] | None:
    """The layout and the prefix of its keys, or None. A stem before the blocks, as other ResNets have it, is
    unknown.
    """
    for layout in LAYOUTS:
        sign = re.compile(PREFIX + re.escape(layout.sign))
        for key, tensor in tensors.items():
            if (match := sign.fullmatch(key)) and tensor.ndim == 4 and tensor.shape[1] in (1, 3):
                return layout, match[1]
    return None


def translate(tensors: dict[str, Tensor], where: Path | str) -> Translation:
    """Tensors of a foreign state dict by our names; those of a classifier, or outside the encoder, are left out.

    Raises `DataError`, beginning with `where`, for an unknown architecture, a missing or unknown key and a wrong shape.
    """
    if (found := recognise(tensors)) is None:
        first = ", ".join(key[:60] for key in list(tensors)[:4])
        raise DataError(
            f"{where}: its tensors are of no known backbone (the first are {first}); understood are "
            + "; ".join(f"{x.title} ({x.sign})" for x in LAYOUTS)
        )
    layout, prefix = found
    body = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    left_out = _others(tensors, layout, prefix, where)
    widths = _widths(body, layout, prefix, where)
    for key, shape in _shapes(layout, widths):
        if key in body and tuple(body[key].shape) != shape:
            raise DataError(
                f"{where}: {prefix}{key} is {list(body[key].shape)}, {layout.backbone} of widths "
                f"{'-'.join(map(str, widths))} needs {list(shape)}; give the weights of an unchanged one"
            )
    options = {"channels": widths[0]} if layout.backbone == "conv64" else {"widths": widths}
    ours = {key: tensor for step in layout.steps for key, tensor in _named(step, body)}
    return Translation(layout.backbone, options, ours, left_out)


def override(backbone: dict[str, Any]) -> str:
    """What `fsl eval` must be told beside `--weights` for a backbone that is not DeepEMD's; starts with a space."""
    if backbone == DEFAULT:
        return ""
    inside = ", ".join(f"{key}: {value}" for key, value in backbone.items())
    return f" --set 'backbone={{{inside}}}'"


def _others(tensors: dict[str, Tensor], layout: Layout, prefix: str, where: Path | str) -> list[str]:
    """Keys that are not the backbone's. Raises `DataError` for one that may have changed what it computes."""
    known = {f"{prefix}{key}" for step in layout.steps for key in (*_needed(step), *_optional(step))}
    inside = prefix.replace("module.", "") != ""  # a prefix that names the encoder: all else belongs to another part
    others = [key for key in tensors if key not in known]
    for key in others:
        outside = inside and not key.startswith(prefix)
        if not outside and not CLASSIFIER.match(key.removeprefix(prefix)):
            raise DataError(
                f"{where}: holds {key[:60]}, which {layout.backbone} does not have; give the weights "
                "of an unchanged one"
            )
    return others


def _widths(body: dict[str, Tensor], layout: Layout, prefix: str, where: Path | str) -> list[int]:
    """Channels of the four blocks, read from each block's first convolution."""
    for key in (key for step in layout.steps for key in _needed(step)):
        if key not in body:
            raise DataError(
                f"{where}: has no {prefix}{key}, which {layout.backbone} needs; give the whole network's weights"
            )
    widths: dict[int, int] = {}
    for step in layout.steps:
        weight = body[f"{step.conv}.weight"]
        widths.setdefault(step.outputs, len(weight) if weight.ndim else 0)
    if layout.backbone == "conv64":
        widths = dict.fromkeys(widths, widths[0])
    if not all(1 <= width <= WIDEST for width in widths.values()):
        raise DataError(
            f"{where}: its widths are {'-'.join(map(str, widths.values()))}, {layout.backbone} takes 1 to "
            f"{WIDEST}; give the weights of an unchanged one"
        )
    return [widths[block] for block in range(4)]


def _shapes(layout: Layout, widths: list[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    channels = [*widths, 3]  # -1 is the picture
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


def _residual(block: str, conv: str, norm: str, shortcut: str, first: int, number: int, before: int) -> Iterator[Step]:
    """The steps of four residual blocks; names are patterns of the block and of the convolution, counted from
    `first`.
    """
    for b in range(4):
        there, here, inputs = block.format(b + first), f"blocks.{b}.", before if b == 0 else b - 1
        for i in range(number):
            yield Step(
                there + conv.format(i + first, 3 * i),
                there + norm.format(i + first, 3 * i + 1),
                f"{here}body.{3 * i}",
                f"{here}body.{3 * i + 1}",
                3,
                inputs if i == 0 else b,
                b,
            )
        theirs, ours = there + shortcut, f"{here}shortcut"
        yield Step(f"{theirs}.0", f"{theirs}.1", f"{ours}.0", f"{ours}.1", 1, inputs, b)


def _plain(block: str, first: int) -> Iterator[Step]:
    """The steps of four blocks of one convolution."""
    for b in range(4):
        there = block.format(b + first)
        yield Step(f"{there}.0", f"{there}.1", f"blocks.{b}.0", f"blocks.{b}.1", 3, b - 1, b)


def _own(number: int, before: int) -> Iterator[Step]:
    return _residual("blocks.{}.", "body.{1}", "body.{1}", "shortcut", 0, number, before)


LAYOUTS = (
    Layout(
        "ResNet-12 of DeepEMD and FEAT",
        "resnet12",
        tuple(_residual("layer{}.0.", "conv{0}", "bn{0}", "downsample", 1, 3, -1)),
    ),
    Layout("ConvNet by layers", "conv64", tuple(_plain("layer{}", 1))),
    Layout("ConvNet of FEAT", "conv64", tuple(_plain("{}", 0))),
    Layout("our resnet10", "resnet10", (Step("stem.0", "stem.1", "stem.0", "stem.1", 3, -1, 0), *_own(2, 0))),
    Layout("our resnet12", "resnet12", tuple(_own(3, -1))),
    Layout("our conv64", "conv64", tuple(_plain("blocks.{}", 0))),
)
