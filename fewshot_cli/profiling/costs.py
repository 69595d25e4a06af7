"""What a network costs: its parameters, and the multiply-adds of one picture."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Counts:
    """`multiply_adds` are those of convolutions and linear layers; `multiply_adds_bn` has two more for each value of a
    batch norm, as the tables of the Multi-Proxy Wasserstein classifier count. `positions` are those of the output's
    map.
    """

    parameters: int
    multiply_adds: int
    multiply_adds_bn: int
    positions: int


def count(backbone: nn.Module, size: int) -> Counts:
    """The cost of one picture [1,3,size,size], in evaluation.

    Takes any module, with a classifier behind the backbone or without. Counted are `Conv2d`, `Linear` and `BatchNorm2d`
    each time they are called, without biases; ReLUs, pools, sums and functions are free. Nothing is computed: tensors
    have shapes only, so large networks cost no memory, and parameters, buffers and modes stay as they are. A picture
    too small for the network raises what the network raises.
    """
    products, normed = 0, 0

    def weighted(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal products
        products += output.numel() * module.weight[0].numel()

    def norm(_: nn.Module, __: Any, output: Tensor) -> None:
        nonlocal normed
        normed += output.numel()

    modes = [(module, module.training) for module in backbone.modules()]
    counted = {nn.Conv2d: weighted, nn.Linear: weighted, nn.BatchNorm2d: norm}
    hooks = [m.register_forward_hook(hook) for m, _ in modes for kind, hook in counted.items() if isinstance(m, kind)]
    tensors = {name: x.detach().to("meta") for name, x in (*backbone.named_parameters(), *backbone.named_buffers())}
    try:
        backbone.eval()
        with torch.no_grad():
            out = torch.func.functional_call(backbone, tensors, (torch.empty(1, 3, size, size, device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return Counts(sum(x.numel() for x in backbone.parameters()), products, products + 2 * normed, out.shape[2:].numel())
