"""What a network costs: its parameters, and the multiply-adds of one image."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


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
    """The cost of one image [1,3,size,size], in evaluation.

    Takes any module, with a classifier behind the backbone or without. PyTorch's counter sees convolutions and matrix
    products; biases, ReLUs, pools and sums are free. The values of each `BatchNorm2d` are counted here. Nothing is
    computed: tensors have shapes only, so large networks cost no memory, and parameters, buffers and modes stay as they
    are. An image too small for the network raises what the network raises.
    """
    normed = 0

    def norm(_: nn.Module, __: Any, output: Tensor) -> None:
        nonlocal normed
        normed += output.numel()

    modes = [(module, module.training) for module in backbone.modules()]
    hooks = [m.register_forward_hook(norm) for m, _ in modes if isinstance(m, nn.BatchNorm2d)]
    tensors = {name: x.detach().to("meta") for name, x in (*backbone.named_parameters(), *backbone.named_buffers())}
    counter = FlopCounterMode(display=False)
    try:
        backbone.eval()
        with torch.no_grad(), counter:
            out = torch.func.functional_call(backbone, tensors, (torch.empty(1, 3, size, size, device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    products = counter.get_total_flops() // 2  # it counts the multiplication and the addition
    parameters = sum(x.numel() for x in backbone.parameters())
    return Counts(parameters, products, products + 2 * normed, out.shape[2:].numel())
