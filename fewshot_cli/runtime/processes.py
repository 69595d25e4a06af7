"""Where work runs: one process, or several that share it by torch.distributed, which Lightning Fabric sets up.

Several come from `--devices` and `--num-nodes`, from torchrun, or from SLURM. Whatever their number, the result is that
of one process up to rounding, except for dropout masks, which each process draws independently: they share a global
batch, batch-norm statistics, the episodes of an evaluation, and one run directory on a file system that all of them
see.
"""

import atexit
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from fewshot_cli.errors import DataError, FslError
from fewshot_cli.runtime import console

if TYPE_CHECKING:
    from lightning_fabric import Fabric

T = TypeVar("T")


class Processes:
    """The processes that share the work: `rank` of `size`, and the `device` of this one."""

    rank, size, local = 0, 1, 1  # local: processes on this machine

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @cached_property
    def fabric(self) -> "Fabric":
        """Lightning Fabric on this process's device."""
        return _fabric(self.device, 1, 1)

    def first(self, work: Callable[[], T]) -> T:
        """The result of `work` on the first process, everywhere; what it raises there is raised everywhere."""
        if self.size == 1:
            return work()
        result, error = _attempt(work) if self.rank == 0 else (None, None)
        result, shared = self.fabric.broadcast((result, _shared(error)))
        if error or shared:
            raise cast(Exception, error or shared)
        return cast(T, result)

    def each(self, work: Callable[[], T]) -> T:
        """The result of `work` on this process; what it raises on any of them is raised everywhere."""
        if self.size == 1:
            return work()
        result, error = _attempt(work)
        for shared in self.gather(_shared(error)):
            if shared is not None:
                raise shared
        return cast(T, result)

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks, on all of them."""
        if self.size == 1:
            return [value]
        out: list[T | None] = [None] * self.size
        torch.distributed.all_gather_object(out, value)
        return cast(list[T], out)

    def share(self, count: int, what: str) -> slice:
        """This process's part of `count` equal things. Raises `FslError` when they cannot be shared out evenly."""
        if count % self.size:
            error = FslError(
                f"{what}: {count} cannot be shared by {self.size} processes; make it a multiple of {self.size}"
            )
            error.shared = True
            raise error
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

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


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _shared(error: Exception | None) -> FslError | None:
    """An error that every process raises and only the first one reports."""
    if error is None:
        return None
    shared = error if isinstance(error, FslError) else DataError(f"a process failed: {error!r}")
    shared.shared = True
    return shared


class _Several(Processes):
    def __init__(self, fabric: "Fabric", local: int) -> None:
        self.__dict__["fabric"], self.local = fabric, local
        self.device, self.rank, self.size = fabric.device, fabric.global_rank, fabric.world_size


def launch(device: torch.device, devices: int | None, nodes: int | None) -> Processes:
    """The processes asked for; called before anything else, since each runs the same command from its start.

    Without numbers they are those that torchrun or SLURM's srun started, or one. Raises `FslError` for more GPUs than
    there are and for processes that cannot find each other.
    """
    outside = _outside()
    asked = devices or outside[0], nodes or outside[1]
    if outside != (1, 1) and asked != outside:
        raise FslError(
            f"--devices {asked[0]} --num-nodes {asked[1]}: the launcher started {outside[0]} processes on each of "
            f"{outside[1]} machines; leave the options out, or launch it differently"
        )
    devices, nodes = asked
    if devices * nodes == 1:
        return Processes(device)
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
    return _Several(fabric, devices)


def _outside() -> tuple[int, int]:
    """Processes per node, and nodes, that torchrun or srun started; sbatch alone starts one, whatever it reserves."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return int(env["LOCAL_WORLD_SIZE"]), int(env["WORLD_SIZE"]) // int(env["LOCAL_WORLD_SIZE"])
    tasks, machines = (int(env.get(f"SLURM_STEP_NUM_{name}", 1)) for name in ("TASKS", "NODES"))
    return (tasks // machines, machines) if tasks > 1 else (1, 1)


def _fabric(device: torch.device, devices: int, nodes: int) -> "Fabric":
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import (
        ClusterEnvironment,
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )
    from lightning_fabric.strategies import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it reports every start
    logging.getLogger("lightning_fabric.strategies.launchers").setLevel(logging.INFO)  # but a death too
    started: ClusterEnvironment = (
        LightningEnvironment()
    )  # SLURM's variables describe an allocation, not what runs in it
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
