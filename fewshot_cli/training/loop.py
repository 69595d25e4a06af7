"""The one training loop, on Lightning Fabric: epochs, schedule, validation, best checkpoint, log, exact resume.

Everything random in an epoch comes from a generator seeded by (seed, epoch), so a killed run starts its last epoch
anew and ends, on the CPU, with the same bytes as an unbroken one.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from pickle import UnpicklingError
from time import perf_counter
from typing import Any

import torch
from torch import Generator, Tensor, nn

from fewshot_cli import checkpoint
from fewshot_cli.console import progress, say
from fewshot_cli.errors import DataError
from fewshot_cli.files import atomic, guarded
from fewshot_cli.runs import Run
from fewshot_cli.schema import MetatrainSpec, OptimizerSpec, PretrainSpec, ScheduleSpec

LOG, STATE, WEIGHTS = "log.jsonl", "state.pt", "weights.safetensors"


def fit(
    run: Run,
    spec: PretrainSpec | MetatrainSpec,
    objective: nn.Module,
    batches: Callable[[int, Generator], Iterable[Any]],
    steps: int,
    validate: Callable[[], dict[str, float]],
    modules: dict[str, nn.Module],
    sidecar: dict[str, Any],
    device: torch.device,
    seed: int,
) -> dict[str, Any]:
    """Train `objective` (batch → loss, share correct) and return the summary.

    `batches(epoch, rng)` yields `steps` batches; `validate()` gives at least `accuracy`, on which the best `modules`
    are kept as `weights.safetensors`. Raises `DataError` when the loss becomes NaN or infinite.
    """
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=device.type, devices=[device.index or 0] if device.type == "cuda" else 1,
                    precision={"32": "32-true", "bf16": "bf16-mixed"}[spec.precision])  # fmt: skip
    optimizer = make_optimizer(objective, spec.optimizer)
    wrapped, optimizer = fabric.setup(objective, optimizer)
    start, best = _restore(run, objective, optimizer)
    run.truncate(LOG, start)
    with progress(f"{run.path.name}", spec.epochs * steps) as bar:
        for epoch in range(start, spec.epochs):
            begin, rng = perf_counter(), generator(seed, epoch)
            for group in optimizer.param_groups:
                group["lr"] = spec.optimizer.lr * rate(spec.schedule, epoch, spec.epochs)
            objective.train()
            loss_sum = right = torch.zeros((), device=device)
            for step, batch in enumerate(batches(epoch, rng)):
                loss, share = wrapped(batch)
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                optimizer.step()
                loss_sum, right = loss_sum + loss.detach(), right + share
                bar.update(epoch * steps + step + 1, f"epoch {epoch + 1}, best {best.get('accuracy', 0):.2f} %")
            record = _record(run, epoch, loss_sum, right, steps, optimizer.param_groups[0]["lr"])
            if (epoch + 1) % spec.validation.every == 0 or epoch + 1 == spec.epochs:
                record["validation"] = validate()
                if record["validation"]["accuracy"] >= best.get("accuracy", -1.0):
                    best = {"epoch": epoch + 1, **record["validation"]}
                    checkpoint.save(run.path / WEIGHTS, modules, {**sidecar, "validation": best})
            say(_sentence(record, spec.epochs, perf_counter() - begin))
            run.append(LOG, [record])
            _keep(run, objective, optimizer, epoch + 1, best)
    summary = {"epochs": spec.epochs, "best": best, "weights": str(run.path / WEIGHTS),
               "sha256": checkpoint.load(run.path / WEIGHTS).sha256}  # fmt: skip
    run.finish(summary)
    return summary


def make_optimizer(module: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """The optimiser over every trainable parameter."""
    own = [p for p in module.parameters() if p.requires_grad]
    if spec.name == "adam":
        return torch.optim.Adam(own, lr=spec.lr, weight_decay=spec.weight_decay)
    return torch.optim.SGD(own, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay,
                           nesterov=spec.nesterov and spec.momentum > 0)  # fmt: skip


def rate(spec: ScheduleSpec, epoch: int, epochs: int) -> float:
    """Factor of the learning rate in an epoch (counted from 0)."""
    if spec.name == "step":
        return spec.gamma ** (epoch // spec.every)
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs)) if spec.name == "cosine" else 1.0


def generator(seed: int, epoch: int) -> Generator:
    """The random numbers of one epoch."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _record(run: Run, epoch: int, loss: Tensor, right: Tensor, steps: int, lr: float) -> dict[str, Any]:
    mean = float(loss) / steps
    if not math.isfinite(mean):
        raise DataError(f"{run.path}: the loss became NaN or infinite in epoch {epoch + 1} (learning rate {lr:g}); lower "
                        "optimizer.lr and start a new run, or --resume to repeat the epoch")  # fmt: skip
    return {"epoch": epoch + 1, "lr": lr, "loss": mean, "train_accuracy": 100 * float(right) / steps}


def _sentence(record: dict[str, Any], epochs: int, seconds: float) -> str:
    tail = f", validation {record['validation']['accuracy']:.2f} %" if "validation" in record else ""
    return (f"epoch {record['epoch']}/{epochs}: loss {record['loss']:.4f}, training {record['train_accuracy']:.1f} %"
            f"{tail} ({seconds:.0f} s)")  # fmt: skip


def _keep(run: Run, objective: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, best: dict[str, Any]) -> None:
    state = {"epoch": epoch, "best": best, "objective": objective.state_dict(), "optimizer": optimizer.state_dict()}
    with atomic(run.path / STATE) as part:
        torch.save(state, part)


def _restore(run: Run, objective: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
    path: Path = run.path / STATE
    if not (run.resumed and path.exists()):
        return 0, {}
    try:
        with guarded(path):
            state = torch.load(path, map_location="cpu", weights_only=True)
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError) as fault:
        raise DataError(f"{path}: is damaged ({fault}); start again in another --run-dir") from fault
    say(f"resuming after epoch {state['epoch']}")
    return state["epoch"], state["best"]
