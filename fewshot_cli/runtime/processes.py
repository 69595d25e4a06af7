"""Where work runs: one process, or several that share it by torch.distributed, which Lightning Fabric sets up.

Several come from `--devices` and `--num-nodes`, from torchrun, or from SLURM. Whatever their number, the result is that
of one process up to rounding, but for drop-out, whose masks each draws for itself: they share a global batch,
batch-norm statistics, the episodes of an evaluation, and one run directory on a file system that all of them see.
"""

import atexit
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fewshot_cli.errors import DataError, FslError
from fewshot_cli.runtime import console

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class World:
    """The processes that share the work: `rank` of `size`, and the `device` of this one."""

    rank, size, local = 0, 1, 1  # local: processes on this machine

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @cached_property
    def fabric(self) -> "Fabric":
        """Lightning Fabric on this process's device."""
        return _fabric(self.device, 1, 1)

    def first(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on the first process, everywhere; what it raises there is raised everywhere."""
        if self.size == 1:
            return work()
        out, fault = _tried(work) if self.rank == 0 else (None, None)
        out, told = self.fabric.broadcast((out, _told(fault)))
        if fault or told:
            raise fault or told
        return out

    def each(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on this process; what it raises on any of them is raised everywhere."""
        if self.size == 1:
            return work()
        out, fault = _tried(work)
        if told := next((f for f in self.gather(_told(fault)) if f is not None), None):
            raise told
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
            fault = f"{what}: {count} cannot be shared by {self.size} processes; make it a multiple of {self.size}"
            raise _told(FslError(fault))
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def rows(self, value: Tensor) -> list[Tensor]:
        """Every process's tensor [n,…], n of its own, in the order of ranks, on all of them."""
        if self.size == 1:
            return [value]
        counts = self.gather(len(value))
        padded = value.new_zeros(max(counts), *value.shape[1:])
        padded[: len(value)] = value
        out = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(out, padded)
        return [part[:count] for part, count in zip(out, counts, strict=True)]

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""
        if self.size == 1:
            return value
        value = value.detach().clone()
        torch.distributed.all_reduce(value)
        return value / self.size


def _tried(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as fault:
        return None, fault


def _told(fault: Exception | None) -> FslError | None:
    """A fault that every process raises and only the first one tells."""
    if fault is None:
        return None
    told = fault if isinstance(fault, FslError) else DataError(f"a process failed: {fault!r}")
    told.shared = True
    return told


class _Shared(World):
    def __init__(self, fabric: "Fabric", local: int) -> None:
        self.__dict__["fabric"], self.local = fabric, local
        self.device, self.rank, self.size = fabric.device, fabric.global_rank, fabric.world_size


def launch(device: torch.device, devices: int | None, nodes: int | None) -> World:
    """The processes asked for; called before anything else, since each runs the same command from its start.

    Without numbers they are those that torchrun or SLURM's srun started, or one. Raises `FslError` for more GPUs than
    there are and for processes that cannot find each other.
    """
    outside = _outside()
    asked = devices or outside[0], nodes or outside[1]
    if outside != (1, 1) and asked != outside:
        raise FslError(
            f"--devices {asked[0]} --num-nodes {asked[1]}: the launcher started {outside[0]} processes on each of "
            f"{outside[1]} machines; leave the options out, or start it otherwise"
        )
    devices, nodes = asked
    if devices * nodes == 1:
        return World(device)
    if nodes > 1 and outside == (1, 1) and "MASTER_ADDR" not in os.environ:
        raise FslError(
            f"--num-nodes {nodes}: start the command on every machine by torchrun or srun, or set MASTER_ADDR, "
            "MASTER_PORT and NODE_RANK there"
        )
    if device.type == "cuda" and device.index is not None:
        raise FslError(f"--device {device}: several processes take the first GPUs; write --device cuda with --devices")
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise FslError(f"--devices {devices}: this machine has {torch.cuda.device_count()} GPUs; give at most so many")
    fabric = _fabric(device, devices, nodes)
    fabric.launch()
    if fabric.global_rank:
        console.mute(fabric.global_rank)
    atexit.register(torch.distributed.destroy_process_group)
    return _Shared(fabric, devices)


def _outside() -> tuple[int, int]:
    """Processes a machine, and machines, that torchrun or srun started; sbatch alone starts one, whatever it
    reserves.
    """
    of = os.environ
    if "TORCHELASTIC_RUN_ID" in of:
        return int(of["LOCAL_WORLD_SIZE"]), int(of["WORLD_SIZE"]) // int(of["LOCAL_WORLD_SIZE"])
    tasks, machines = (int(of.get(f"SLURM_STEP_NUM_{name}", 1)) for name in ("TASKS", "NODES"))
    return (tasks // machines, machines) if tasks > 1 else (1, 1)


def _fabric(device: torch.device, devices: int, nodes: int) -> "Fabric":
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells of every start
    logging.getLogger("lightning_fabric.strategies.launchers").setLevel(logging.INFO)  # but of a death too
    started = LightningEnvironment()  # what SLURM's variables say of an allocation is not what runs in it
    if devices * nodes > 1 and _outside() != (1, 1):
        started = TorchElasticEnvironment() if "TORCHELASTIC_RUN_ID" in os.environ else SLURMEnvironment()
    several = DDPStrategy(cluster_environment=started, timeout=timedelta(days=2))  # others may wait for a download
    one = [device.index or 0] if device.type == "cuda" else 1
    return Fabric(
        accelerator=device.type,
        devices=devices if devices * nodes > 1 else one,
        num_nodes=nodes,
        strategy=several if devices * nodes > 1 else "auto",
        plugins=[] if devices * nodes > 1 else [started],
    )
