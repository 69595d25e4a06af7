"""The one training loop, on Lightning Fabric: epochs, schedule, validation, best checkpoint, log, exact resume.

Everything random in an epoch comes from generators seeded by (seed, epoch), so a killed run starts its last epoch
anew and ends, on the CPU, with the same bytes as an unbroken one.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from time import perf_counter
from typing import Any

import torch
from torch import Generator, nn

from fewshot_cli import transport
from fewshot_cli.config.schema import MetatrainSpec, OptimizerSpec, PretrainSpec, ScheduleSpec
from fewshot_cli.errors import DataError
from fewshot_cli.figures import curves
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.files import atomic, guarded
from fewshot_cli.runtime.processes import World
from fewshot_cli.runtime.runs import Run
from fewshot_cli.training.batch_norm import share_batch_norm
from fewshot_cli.weights import checkpoint

LOG, TIMES, STATE, WEIGHTS, CURVES = "log.jsonl", "times.jsonl", "state.pt", "weights.safetensors", "training.png"


@dataclass(frozen=True)
class Job:
    """What is trained: `objective` maps a batch to loss and share correct, and `batches(epoch, rng)` yields this
    process's part of `steps` batches; `validate()` gives at least `accuracy`, by which the best `modules` are kept with
    `sidecar`; without it they are those of the last epoch.
    """

    objective: nn.Module
    batches: Callable[[int, Generator], Iterable[Any]]
    steps: int
    validate: Callable[[], dict[str, float]] | None
    modules: dict[str, nn.Module]
    sidecar: dict[str, Any]


class Average:
    """Exponential moving averages of the modules' weights and statistics (`ema`)."""

    def __init__(self, modules: dict[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.live = [x for module in modules.values() for x in module.state_dict().values()]
        self.kept = [x.clone() for x in self.live]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """One step; the first ones count more, so that the start is forgotten."""
        self.steps += 1
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for kept, live in zip(self.kept, self.live, strict=True):
            kept.lerp_(live, weight) if live.is_floating_point() else kept.copy_(live)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The modules hold the averages inside the block."""
        own = [x.clone() for x in self.live]
        for live, kept in zip(self.live, self.kept, strict=True):
            live.copy_(kept)
        try:
            yield
        finally:
            for live, x in zip(self.live, own, strict=True):
                live.copy_(x)


class Solves:
    """Iterations and failures of the transport problems of an epoch."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    def add(self, book: transport.Ledger) -> None:
        """Count what a step has solved."""
        for found, good in zip(book.iterations, book.converged, strict=True):
            few = found.double()
            self.sums += torch.stack([few.new_tensor(len(few)), few.sum(), few.square().sum(), (~good).sum()]).to(
                self.sums.device
            )

    def record(self, world: World) -> dict[str, Any]:
        """Mean and standard deviation of the iterations of a problem, and how many did not converge; empty without
        problems.

        Over all processes.
        """
        count, total, squares, failed = (world.mean(self.sums) * world.size).tolist()
        if not count:
            return {}
        mean = total / count
        spread = math.sqrt(max(0.0, squares / count - mean**2))
        return {"iterations": {"mean": mean, "spread": spread}, "not_converged": round(failed)}


def fit(run: Run, spec: PretrainSpec | MetatrainSpec, job: Job, world: World, seed: int, board: bool) -> dict[str, Any]:
    """Train and return the summary; `board` writes TensorBoard's files too.

    Raises `DataError` when the loss becomes NaN or infinite.
    """
    fabric = world.fabric  # it must be there before anything is compiled
    optimizer = make_optimizer(job.objective, spec.optimizer)
    average = Average(job.modules, spec.ema) if spec.ema else None
    objective = share_batch_norm(job.objective, world)
    start, best, stale = _restore(run, objective, optimizer, average)
    step = torch.compile(objective) if spec.compile else objective
    wrapped, wrapped_optimizer = fabric.setup(step, optimizer)
    run.truncate(LOG, start)
    run.truncate(TIMES, start)
    writer = _board(run, start) if board and world.rank == 0 else None
    with progress(f"{run.path.name}", spec.epochs * job.steps) as bar:
        for epoch in range(start, spec.epochs):
            if spec.validation.patience and stale >= spec.validation.patience:
                say(f"stopped after {start} epochs: no better validation in the last {stale}")
                break
            begin, rng = perf_counter(), generator(seed, epoch)
            torch.manual_seed(int(torch.randint(2**62, (), generator=rng)) + world.rank)  # for drop-out
            for group in optimizer.param_groups:
                group["lr"] = spec.optimizer.lr * rate(spec.schedule, epoch, spec.epochs)
            wrapped.train()
            loss_sum = right = torch.zeros((), device=world.device)
            solves = Solves(world.device)
            for number, batch in enumerate(job.batches(epoch, rng)):
                with (
                    transport.ledger() as book,
                    torch.autocast(world.device.type, torch.bfloat16, enabled=spec.precision == "bf16"),
                ):
                    loss, share = wrapped(batch)
                solves.add(book)
                wrapped_optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                wrapped_optimizer.step()
                if average:
                    average.update()
                loss_sum, right = loss_sum + loss.detach(), right + share
                bar.update(epoch * job.steps + number + 1, f"epoch {epoch + 1}, best {best.get('accuracy', 0):.2f} %")
            trained = perf_counter() - begin
            sums = world.mean(torch.stack([loss_sum, right])) / job.steps
            record = _record(run, epoch, *sums.tolist(), optimizer.param_groups[0]["lr"]) | solves.record(world)
            last = epoch + 1 == spec.epochs
            if last or (job.validate and (epoch + 1) % spec.validation.every == 0):
                measured, found = _validate(job, average, best, epoch, run, world)
                best, stale = (found, 0) if found is not best else (best, stale + 1)
                record |= {"validation": measured} if measured else {}
            say(_sentence(record, spec.epochs, perf_counter() - begin))
            state = {"epoch": epoch + 1, "best": best, "stale": stale}
            times = {"epoch": epoch + 1, "seconds": perf_counter() - begin, "training": trained}

            def keep(record: dict = record, state: dict = state, times: dict = times) -> None:
                run.append(LOG, [record])
                run.append(TIMES, [times])
                if writer:
                    _note(writer, record)
                _keep(run, objective, optimizer, average, state)

            world.first(keep)
            start = epoch + 1
    if writer:
        writer.close()
    return world.first(lambda: _finish(run, start, best))


def _validate(
    job: Job, average: Average | None, best: dict[str, Any], epoch: int, run: Run, world: World
) -> tuple[dict[str, float], dict]:
    """This epoch's validation, and the best so far, whose weights are written."""
    with average.applied() if average else nullcontext():
        found = job.validate() if job.validate else {}
        if found and found["accuracy"] <= best.get("accuracy", -1.0):
            return found, best
        better = {"epoch": epoch + 1, **found}
        world.first(lambda: checkpoint.save(run.path / WEIGHTS, job.modules, {**job.sidecar, "validation": better}))
        return found, better


def _finish(run: Run, epochs: int, best: dict[str, Any]) -> dict[str, Any]:
    records = run.lines(LOG)
    curves.training(run.path / CURVES, records, run.path.name)
    summary = {
        "epochs": epochs,
        "best": best,
        "weights": str(run.path / WEIGHTS),
        "sha256": checkpoint.load(run.path / WEIGHTS).sha256,
    }
    run.finish(summary)
    return summary


def make_optimizer(module: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """The optimiser over every trainable parameter, its step one fused kernel."""
    own = [p for p in module.parameters() if p.requires_grad]
    if spec.name == "adam":
        return torch.optim.Adam(own, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
    return torch.optim.SGD(
        own,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.nesterov and spec.momentum > 0,
        fused=True,
    )


def rate(spec: ScheduleSpec, epoch: int, epochs: int) -> float:
    """Factor of the learning rate in an epoch (counted from 0)."""
    if spec.name == "step":
        return spec.gamma ** (sum(epoch >= at for at in spec.at) if spec.at else epoch // spec.every)
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs)) if spec.name == "cosine" else 1.0


def generator(seed: int, epoch: int) -> Generator:
    """The random numbers of one epoch."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _record(run: Run, epoch: int, loss: float, right: float, lr: float) -> dict[str, Any]:
    if not math.isfinite(loss):
        raise DataError(
            f"{run.path}: the loss became NaN or infinite in epoch {epoch + 1} (learning rate {lr:g}); lower "
            "optimizer.lr and start a new run, or --resume to repeat the epoch"
        )
    return {"epoch": epoch + 1, "lr": lr, "loss": loss, "train_accuracy": 100 * right}


def _sentence(record: dict[str, Any], epochs: int, seconds: float) -> str:
    tail = f", validation {record['validation']['accuracy']:.2f} %" if "validation" in record else ""
    if record.get("not_converged"):
        tail += f", the solver did not converge on {record['not_converged']} problems"
    return (
        f"epoch {record['epoch']}/{epochs}: loss {record['loss']:.4f}, training {record['train_accuracy']:.1f} %"
        f"{tail} ({seconds:.0f} s)"
    )


def check_board(wanted: bool) -> None:
    """Refuse `--tensorboard` where it is not installed. Raises `DataError`."""
    try:
        if wanted:
            import torch.utils.tensorboard  # noqa: F401
    except ImportError as fault:
        raise DataError(
            "--tensorboard: the package is not installed; pip install 'fewshot-cli[tensorboard]'"
        ) from fault


def _board(run: Run, start: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.path / "tensorboard"), purge_step=start + 1)


def _note(writer: Any, record: dict[str, Any]) -> None:
    values = {"loss": record["loss"], "lr": record["lr"], "accuracy/training": record["train_accuracy"]}
    if "validation" in record:
        values["accuracy/validation"] = record["validation"]["accuracy"]
    for name, value in values.items():
        writer.add_scalar(name, value, record["epoch"])


def _keep(
    run: Run, objective: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None, where: dict[str, Any]
) -> None:
    state = {
        **where,
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": (average.steps, average.kept) if average else None,
    }
    with atomic(run.path / STATE) as part:
        torch.save(state, part)


def _restore(
    run: Run, objective: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> tuple[int, dict[str, Any], int]:
    """Epochs done, the best validation and how many have passed since."""
    path: Path = run.path / STATE
    if not (run.resumed and path.exists()):
        return 0, {}, 0
    try:
        with guarded(path):
            state = torch.load(path, map_location="cpu", weights_only=True)
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        if average:
            average.steps, kept = state["average"]
            for own, x in zip(average.kept, kept, strict=True):
                own.copy_(x)
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError) as fault:
        raise DataError(f"{path}: is damaged ({fault}); start again in another --run-dir") from fault
    say(f"resuming after epoch {state['epoch']}")
    return state["epoch"], state["best"], state["stale"]


__all__ = ["Average", "Job", "Solves", "check_board", "fit", "generator", "make_optimizer", "rate"]
