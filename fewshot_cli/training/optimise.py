"""The one training loop, on Lightning Fabric: epochs, schedule, validation, best checkpoint, log, exact resume.

Everything random in an epoch comes from generators seeded by (seed, epoch), so a killed run starts its last epoch
anew and ends, on the CPU, with the same bytes as an uninterrupted one. On a GPU, where nothing repeats to the last bit,
it starts anew what began in the last `KEEP` seconds.
"""

import hashlib
import io
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from fewshot_cli import transport
from fewshot_cli.config.schema import MetatrainSpec, OptimizerSpec, PretrainSpec, ScheduleSpec
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.results import TrainingRecord, TrainingResult, Validation
from fewshot_cli.figures import curves
from fewshot_cli.runtime.bars import Bar
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.device import has_bf16, machine
from fewshot_cli.runtime.files import read_sealed, sha256, write_sealed
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import TIMES, Run
from fewshot_cli.training import watch
from fewshot_cli.training.average import Average
from fewshot_cli.training.batch_norm import share_batch_norm
from fewshot_cli.training.log import LOG, SolverStatistics, epoch_record, sentence
from fewshot_cli.training.loggers import open_loggers
from fewshot_cli.weights import checkpoint

LOOK = 1.0  # seconds between two looks at the loss, for each of which a GPU is waited for
KEEP = 30.0  # seconds of epochs on a GPU that a kill may cost
STATE, WEIGHTS, CURVES = "state.pt", "weights.safetensors", "training.png"


@dataclass(frozen=True)
class Job:
    """What is trained: `objective` maps a batch to its loss and the share of correct answers, and `batches(epoch, rng)`
    yields this process's part of `steps` batches; `validate()` gives the accuracy by which the best `modules` are kept
    with `sidecar`; without it they are those of the last epoch.
    """

    objective: nn.Module
    batches: Callable[[int, Generator], Iterable[Any]]
    steps: int
    validate: Callable[[], Validation] | None
    modules: dict[str, nn.Module]
    sidecar: dict[str, Any]


@dataclass
class _Progress:
    """How far a run is: epochs done, the best validation, and how many validations have passed since."""

    epoch: int = 0
    best: Validation | None = None
    validations_without_improvement: int = 0


@dataclass
class _Training:
    """A run at work."""

    run: Run
    spec: PretrainSpec | MetatrainSpec
    job: Job
    processes: Processes
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None
    done: _Progress = field(default_factory=_Progress)
    saved: int = 0  # the epoch after which what resuming needs was last written
    kept: float = 0.0  # and when

    def epoch(self, step: Callable[[Any, SolverStatistics], Tensor], seed: int, bar: Bar) -> TrainingRecord:
        """Train one epoch; `step` trains one batch and returns its loss and its share of correct answers [2]."""
        spec, device, epoch = self.spec, self.processes.device, self.done.epoch
        rng = generator(seed, epoch)
        # for dropout, whose masks each process draws for itself
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)) + self.processes.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = spec.optimizer.lr * rate(spec.schedule, epoch, spec.epochs)
        sums, solved = torch.zeros(2, device=device), SolverStatistics(device)
        begin = f"epoch {epoch + 1}/{spec.epochs}, lr {self.optimizer.param_groups[0]['lr']:.3g}"
        best, loss_so_far, looked = self.done.best, "", 0.0
        end = f", best {best['accuracy']:.2f} %" if best and "accuracy" in best else ""
        with transport.checked_later() as pending:
            for number, batch in enumerate(self.job.batches(epoch, rng)):
                sums = sums + step(batch, solved)
                if self.average:
                    self.average.update()
                if perf_counter() - looked > LOOK:
                    pending.look()
                    loss_so_far, looked = f", loss {float(sums[0]) / (number + 1):.4f}", perf_counter()
                bar.update(epoch * self.job.steps + number + 1, f"{begin}{loss_so_far}{end}")
        loss, share_correct = (self.processes.mean(sums) / self.job.steps).tolist()
        record = epoch_record(self.run, epoch, loss, share_correct, self.optimizer.param_groups[0]["lr"])
        return cast(TrainingRecord, {**record, **solved.record(self.processes)})

    def validate(self) -> Validation | None:
        """This epoch's validation; the weights are written when it is the best so far, or when there is none."""
        done, epoch = self.done, self.done.epoch + 1
        with self.average.applied() if self.average else nullcontext():
            validation = self.job.validate() if self.job.validate else None
            if validation and done.best and validation["accuracy"] <= done.best["accuracy"]:
                done.validations_without_improvement += 1
                return validation
            best = cast(Validation, {"epoch": epoch, **(validation or {})})
            path, sidecar = self.run.path / WEIGHTS, {**self.job.sidecar, "validation": best}
            self.processes.first(lambda: checkpoint.save(path, self.job.modules, sidecar))
            done.best, done.validations_without_improvement = best, 0
            return validation

    def keep(self, record: TrainingRecord, times: dict[str, Any]) -> None:
        """Write an epoch's record, its times, and what resuming needs."""
        self.run.append(LOG, [record])
        self.run.append(TIMES, [times])
        if self.due(record["epoch"]):
            self.save(record["epoch"])

    def save(self, epoch: int) -> None:
        """Write what resuming after an epoch needs."""
        state = {
            "run": self.run.key,
            "log": sha256(self.run.path / LOG),
            "epoch": epoch,
            # pickle writes a string once where it is one object: after resuming, these keys would be other objects
            "best": {sys.intern(key): value for key, value in (self.done.best or {}).items()},
            "stale": self.done.validations_without_improvement,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state() if self.average else None,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_sealed(self.run.path / STATE, content.getbuffer())
        self.saved, self.kept = epoch, perf_counter()

    def due(self, epoch: int) -> bool:
        """Whether what resuming needs is to be written after an epoch: on the CPU always, on a GPU, where an epoch may
        take less than that, after some time, with the best weights so far, and in the end.
        """
        best = self.done.best is not None and self.done.best.get("epoch") == epoch
        waited = perf_counter() - self.kept >= KEEP
        return self.processes.device.type == "cpu" or waited or best or epoch == self.spec.epochs

    def restore(self) -> None:
        """Continue where an interrupted run was stopped. Raises `DataError` for a damaged state."""
        path: Path = self.run.path / STATE
        if not (self.run.resumed and path.exists()):
            return
        try:
            state = torch.load(io.BytesIO(read_sealed(path)), map_location="cpu", weights_only=True)
            if state.get("run", self.run.key) != self.run.key:  # those of earlier versions do not say
                raise ValueError("it is another run's")
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.restore(state["average"])
            self.done = _Progress(state["epoch"], state["best"] or None, state["stale"])
            self.saved = self.done.epoch
            self.run.truncate(LOG, self.done.epoch)
            if state.get("log") not in (None, sha256(self.run.path / LOG)):  # it is drawn in the end
                raise DataError(
                    f"{self.run.path / LOG}: is not what this run wrote up to epoch {self.done.epoch}; start again in "
                    "another --run-dir"
                )
        except DataError:
            raise
        except Exception as error:  # a damaged file raises whatever its reader trips over
            raise DataError(f"{path}: is damaged ({error}); start again in another --run-dir") from error
        say(f"resuming after epoch {self.done.epoch}")


def fit(
    run: Run, spec: PretrainSpec | MetatrainSpec, job: Job, processes: Processes, seed: int, log: Sequence[str] = ()
) -> TrainingResult:
    """Train and return the result; the loggers named in `log` take each epoch too.

    Raises `DataError` when the loss becomes NaN or infinite, and where a logger cannot begin.
    """
    fabric = processes.fabric  # it must be there before anything is compiled
    if spec.precision == "bf16" and not has_bf16(processes.device):
        say(
            "note: this processor has no bf16 arithmetic, and emulating it is slow; --precision 32 is many times faster"
        )
    torch.backends.cudnn.benchmark = True  # a GPU's fastest convolutions for these sizes, of which there are few
    optimizer = make_optimizer(job.objective, spec.optimizer)
    average = Average(job.modules, spec.ema) if spec.ema else None
    objective = share_batch_norm(job.objective, processes)
    training = _Training(run, spec, job, processes, objective, optimizer, average)
    training.restore()
    done = training.done
    compiled = cast(nn.Module, torch.compile(objective)) if spec.compile else objective
    wrapped, wrapped_optimizer = fabric.setup(compiled, optimizer)
    run.truncate(LOG, done.epoch)
    run.truncate(TIMES, done.epoch)
    used = machine(processes.device)
    loggers = open_loggers(log, run, done.epoch) if processes.rank == 0 else []

    def step(batch: Any, solved: SolverStatistics) -> Tensor:
        autocast = torch.autocast(processes.device.type, torch.bfloat16, enabled=spec.precision == "bf16")
        with transport.ledger() as ledger, autocast:
            loss, share_correct = wrapped(batch)
        solved.add(ledger)
        wrapped_optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        wrapped_optimizer.step()
        return torch.stack([loss.detach(), share_correct])

    unit, each = ("images", spec.batch) if isinstance(spec, PretrainSpec) else ("episodes", spec.episodes_per_step)
    with progress(f"{run.path.name}", spec.epochs * job.steps, unit, each) as bar:
        while done.epoch < spec.epochs:
            if spec.validation.patience and done.validations_without_improvement >= spec.validation.patience:
                without = done.validations_without_improvement
                say(f"stopped after {done.epoch} epochs: no better validation in the last {without}")
                if training.saved != done.epoch:
                    processes.first(lambda: training.save(done.epoch))
                break
            begin = perf_counter()
            wrapped.train()
            record = training.epoch(step, seed, bar)
            trained = perf_counter() - begin
            if record["epoch"] == spec.epochs or (job.validate and record["epoch"] % spec.validation.every == 0):
                validation = training.validate()
                if validation:
                    record["validation"] = validation
            seconds = perf_counter() - begin
            say(sentence(record, spec.epochs, seconds))
            times = {"epoch": record["epoch"], "seconds": seconds, "training": trained, "machine": used}

            def keep(record: TrainingRecord = record, times: dict[str, Any] = times) -> None:
                training.keep(record, times)
                for logger in loggers:
                    logger.note(record)

            processes.first(keep)
            done.epoch += 1
            watch.tell(record)
    for logger in loggers:
        logger.close()
    return processes.first(lambda: _finish(run, done))


def _finish(run: Run, done: _Progress) -> TrainingResult:
    curves.training(run.path / CURVES, run.lines(LOG), run.path.name)
    weights = run.path / WEIGHTS
    result: TrainingResult = {
        "epochs": done.epoch,
        "best": done.best or {},
        "weights": str(weights),
        "sha256": checkpoint.load(weights).sha256,
    }
    run.finish(result)
    return result


def make_optimizer(module: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """The optimiser over every trainable parameter, its step one fused kernel."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if spec.name == "adam":
        return torch.optim.Adam(parameters, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters,
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
