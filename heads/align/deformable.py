"""Deformable convolution, versions 1 and 2 (Dai et al., ICCV 2017; Zhu et al., CVPR 2019), in plain PyTorch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_cli.errors import RecipeError

Kernel = Callable[..., Tensor]
Pair = int | tuple[int, int]

_kernels: dict[str, Kernel | str] = {}  # by type of device: torchvision's kernel, or why there is none


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    mask: Tensor | None = None,
    backend: Literal["auto", "torch", "torchvision"] = "auto",
) -> Tensor:
    """Convolution whose taps read x bilinearly at moved positions, zero outside of it, and are scaled by a mask.

    x [N,C,H,W], offset [N,2·G·kh·kw,h,w], weight [O,C,kh,kw], bias [O], mask [N,G·kh·kw,h,w] → [N,O,h,w]. Offsets are
    in pixels of x and in torchvision's order: by group of channels, by tap (row by row), y before x. Computed and
    returned in float32, also under autocast; in float64 where x is. `auto` takes torchvision's kernel where it works on
    x's device. Raises ValueError for shapes that do not fit, RecipeError for `torchvision` where it does not work.
    """
    stride, padding, dilation = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation))
    taps = weight[0, 0].numel()
    groups = offset.shape[1] // (2 * taps)
    steps = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    size = [(side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in steps]
    if x.shape[1] != weight.shape[1] or not groups or x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} channels do not go with weight {tuple(weight.shape)}, {groups} offset groups")
    for name, value, channels in (("offset", offset, 2 * groups * taps), ("mask", mask, groups * taps)):
        if value is not None and value.shape != (want := (len(x), channels, *size)):
            raise ValueError(f"{name} is {tuple(value.shape)}, not {want}")
    dtype = torch.promote_types(x.dtype, torch.float32)
    tensors = [None if v is None else v.to(dtype) for v in (x, offset, weight, bias)]
    with _no_autocast(x.device):
        kernel = _kernel(backend, x.device)
        return kernel(*tensors, stride, padding, dilation, None if mask is None else mask.to(dtype))


class DeformableConv2d(nn.Conv2d):
    """A convolution whose taps are moved (`v1`), moved and scaled (`v2`) or neither (`plain`).

    x [N,inputs,H,W] → [N,outputs,h,w]. Offsets and mask are predicted from x by convolutions `offset` and `mask`, which
    begin at zero; `weight` and `bias` are named alike in all versions. The mask is twice a sigmoid and so begins at
    one, where the paper's, a sigmoid, begins at a half: what can be expressed is the same, but all versions begin as
    the plain convolution and exchange weights as they are (those of a network with the paper's mask fit once halved).
    Code that redraws a network's weights must leave `offset` and `mask` at zero.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        version: Literal["v1", "v2", "plain"] = "v1",
        backend: Literal["auto", "torch", "torchvision"] = "auto",
        bias: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bias=bias)
        self.version, self.backend, self.places = version, backend, (stride, padding)
        if version != "plain":
            self.offset = _Zeros(inputs, 2 * kernel**2, kernel, stride, padding)
        if version == "v2":  # a layer of its own, so that the offsets learned by v1 fit
            self.mask = _Zeros(inputs, kernel**2, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,inputs,H,W] → [N,outputs,h,w]; v1 and v2 in float32 under autocast, as bfloat16 places taps coarsely."""
        if self.version == "plain":
            return super().forward(x)
        with _no_autocast(x.device):
            x = x.to(self.weight.dtype)
            mask = 2 * self.mask(x).sigmoid() if self.version == "v2" else None
            stride, padding = self.places
            return deform_conv2d(x, self.offset(x), self.weight, self.bias, stride, padding, 1, mask, self.backend)


class _Zeros(nn.Conv2d):
    """A convolution that begins at zero and draws no random numbers: all versions of a network begin alike."""

    def reset_parameters(self) -> None:
        """Weight and bias to zero."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


def _sampled(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """`deform_conv2d` by `grid_sample` and a 1×1 convolution over channels and taps; it holds N·C·kh·kw·h·w values."""
    (n, channels, height, width), (kh, kw), (h, w) = x.shape, weight.shape[2:], offset.shape[2:]
    taps = kh * kw
    groups = offset.shape[1] // (2 * taps)
    offset = offset.reshape(n * groups, kh, kw, 2, h, w)

    def positions(k: int, out: int, axis: int) -> Tensor:
        tap, place = (torch.arange(count, device=x.device) for count in (k, out))
        return tap[:, None] * dilation[axis] + place * stride[axis] - padding[axis]

    y = offset[:, :, :, 0] + positions(kh, h, 0)[:, None, :, None]
    x_ = offset[:, :, :, 1] + positions(kw, w, 1)[:, None, :]
    # pixel p is at (2p+1)/size − 1 without aligned corners, which also holds for a map of a single row
    grid = torch.stack([(2 * x_ + 1) / width - 1, (2 * y + 1) / height - 1], -1).view(n * groups, taps * h, w, 2)
    values = F.grid_sample(x.reshape(n * groups, channels // groups, height, width), grid, align_corners=False)
    if mask is not None:
        values = values.reshape(n, groups, -1, taps, h, w) * mask.reshape(n, groups, 1, taps, h, w)
    return F.conv2d(values.reshape(n, channels * taps, h, w), weight.reshape(-1, channels * taps, 1, 1), bias)


def _kernel(backend: str, device: torch.device) -> Kernel:
    """The function that computes it; RecipeError where `torchvision` does not work, ValueError for an unknown name."""
    if backend not in ("auto", "torch", "torchvision"):
        raise ValueError(f"{backend} is no backend of deformable convolution; use auto, torch or torchvision")
    if backend == "torch":
        return _sampled
    if device.type not in _kernels:
        _kernels[device.type] = _tried(device)
    kernel = _kernels[device.type]
    if not isinstance(kernel, str):
        return kernel
    if backend == "torchvision":
        raise RecipeError(
            f"torchvision's deformable convolution does not work on {device.type} ({kernel}); set the "
            "backend to auto or torch, or install the torchvision that belongs to this PyTorch"
        )
    return _sampled


def _tried(device: torch.device) -> Kernel | str:
    """torchvision's kernel if a call of it works on the device, else the reason; imports torchvision."""
    try:
        from torchvision.ops import deform_conv2d as kernel

        one = torch.ones(1, 1, 1, 1, device=device)
        kernel(one, torch.zeros(1, 2, 1, 1, device=device), one)
    # a build for another PyTorch fails at import, also by attributes of its half-made module, or lacks this kernel
    except (ImportError, AttributeError, RuntimeError, NotImplementedError) as error:
        return str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
    return kernel


def _no_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast off, on devices that have it; `meta` has none."""
    has = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if has else nullcontext()
