"""Where work runs: one process, or several that share it by torch.distributed, which Lightning Fabric sets up.

Several come from `--devices` and `--num-nodes`, from torchrun, or from SLURM. Whatever their number, the result is that of
one process: they share a global batch, batch-norm statistics, the episodes of an evaluation, and one run directory on a
file system that all of them see.
"""

import atexit
import logging
import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fewshot_cli import console
from fewshot_cli.errors import FslError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class World:
    """The processes that share the work: `rank` of `size`, and the `device` of this one."""

    rank, size = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @cached_property
    def fabric(self) -> "Fabric":
        """Lightning Fabric on this process's device."""
        return _fabric(self.device, 1, 1)

    def first(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on the first process, everywhere; an `FslError` it raises is raised everywhere."""
        if self.size == 1:
            return work()
        out: Any = None
        if self.rank == 0:
            try:
                out = work()
            except FslError as fault:
                out = fault
        out = self.fabric.broadcast(out)
        if isinstance(out, FslError):
            raise out
        return out

    def each(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on this process; an `FslError` that any of them raises is raised everywhere."""
        if self.size == 1:
            return work()
        out, fault = None, None
        try:
            out = work()
        except FslError as found:
            fault = found
        if first := next((f for f in self.gather(fault) if f is not None), None):
            raise first
        return out

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks, on all of them."""
        if self.size == 1:
            return [value]
        out = [None] * self.size
        torch.distributed.all_gather_object(out, value)
        return out

    def share(self, count: int, what: str) -> slice:
        """This process's part of `count` equal things. Raises `FslError` when they cannot be shared out evenly."""
        if count % self.size:
            raise FslError(
                f"{what}: {count} cannot be shared by {self.size} processes; make it a multiple of {self.size}"
            )
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        if self.size == 1:
            return value
        value = value.detach().clone()
        torch.distributed.all_reduce(value)
        return value / self.size


class _Shared(World):
    def __init__(self, fabric: "Fabric") -> None:
        self.__dict__["fabric"] = fabric
        self.device, self.rank, self.size = fabric.device, fabric.global_rank, fabric.world_size


def launch(device: torch.device, devices: int | None, nodes: int | None) -> World:
    """The processes asked for; called before anything else, since each runs the same command from its start.

    Without numbers they are those that torchrun or SLURM started, or one. Raises `FslError` for more GPUs than there are.
    """
    devices = devices or int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE") or 1)
    started = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or devices)
    nodes = nodes or max(1, started // devices)
    if devices * nodes == 1:
        return World(device)
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise FslError(f"--devices {devices}: this machine has {torch.cuda.device_count()} GPUs; give at most so many")
    fabric = _fabric(device, devices, nodes)
    fabric.launch()
    if fabric.global_rank:
        console.mute()
    atexit.register(torch.distributed.destroy_process_group)
    return _Shared(fabric)


def _fabric(device: torch.device, devices: int, nodes: int) -> "Fabric":
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of every start
    one = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=devices if devices * nodes > 1 else one, num_nodes=nodes,
                  strategy="ddp" if devices * nodes > 1 else "auto")  # fmt: skip


class _Sum(torch.autograd.Function):
    """Sum of a tensor over the processes; so is its gradient."""

    @staticmethod
    def forward(_, x: Tensor) -> Tensor:
        x = x.clone()
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(_, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


class _SharedNorm(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of all processes' pictures, where PyTorch's own knows GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        own = x.float()
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        mean = _Sum.apply(own.sum((0, 2, 3))) / count
        apart = own - mean[:, None, None]  # one pass over the squares would cancel digits
        variance = _Sum.apply(apart.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (apart * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def share_batch_norm(module: nn.Module, world: World) -> nn.Module:
    """Make batch norm see the global batch, in place."""
    if world.size > 1 and world.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if world.size > 1:
        for child in module.modules():
            if type(child) is nn.BatchNorm2d:
                child.__class__ = _SharedNorm
    return module
