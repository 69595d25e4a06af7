"""Batch norm whose statistics are those of all processes."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    pass
from fewshot_cli.runtime.processes import Processes


class _Sum(torch.autograd.Function):
    """Sum of a tensor over the processes; so is its gradient."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        x = x.clone()
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


class _SharedNorm(nn.BatchNorm2d):
    """Batch norm whose statistics in training are computed over all processes' images; PyTorch's own supports only
    GPUs.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        single = x.float()
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        mean = _Sum.apply(single.sum((0, 2, 3))) / count
        apart = single - mean[:, None, None]  # one pass over the squares would cancel digits
        variance = _Sum.apply(apart.square().sum((0, 2, 3))) / count
        if self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None:
            momentum = 0.1 if self.momentum is None else self.momentum
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * count / (count - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (apart * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_batch_norm(module: nn.Module, processes: Processes) -> nn.Module:
    """Make batch norm see the global batch, in place."""
    if processes.size > 1 and processes.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if processes.size > 1:
        for child in module.modules():
            if type(child) is nn.BatchNorm2d:
                child.__class__ = _SharedNorm
    return module
