"""What a training run reports about its epochs: records and sentences."""

import math
from typing import Any

import torch

from fewshot_cli import transport
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.results import TrainingRecord
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import Run

LOG = "log.jsonl"


class SolverStatistics:
    """Iterations and failures of the transport problems of an epoch."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    def add(self, ledger: transport.Ledger) -> None:
        """Count what a step has solved."""
        for iterations, converged in zip(ledger.iterations, ledger.converged, strict=True):
            counts = iterations.double()
            new = [counts.new_full((), len(counts)), counts.sum(), counts.square().sum(), (~converged).sum()]
            self.sums += torch.stack(new).to(self.sums.device)

    def record(self, processes: Processes) -> dict[str, Any]:
        """Mean and standard deviation of the iterations of a problem, and how many did not converge, over all
        processes; empty without problems.
        """
        count, total, squares, failed = (processes.mean(self.sums) * processes.size).tolist()
        if not count:
            return {}
        mean = total / count
        spread = math.sqrt(max(0.0, squares / count - mean**2))
        return {"iterations": {"mean": mean, "spread": spread}, "not_converged": round(failed)}


def epoch_record(run: Run, epoch: int, loss: float, share_correct: float, lr: float) -> TrainingRecord:
    """The record of an epoch, counted from 0. Raises `DataError` when the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise DataError(
            f"{run.path}: the loss became NaN or infinite in epoch {epoch + 1} (learning rate {lr:g}); lower "
            "optimizer.lr and start a new run, or --resume to repeat the epoch"
        )
    return {"epoch": epoch + 1, "lr": lr, "loss": loss, "train_accuracy": 100 * share_correct}


def sentence(record: TrainingRecord, epochs: int, seconds: float) -> str:
    """An epoch in words."""
    tail = f", validation {record['validation']['accuracy']:.2f} %" if "validation" in record else ""
    if record.get("not_converged"):
        tail += f", the solver did not converge on {record['not_converged']} problems"
    return (
        f"epoch {record['epoch']}/{epochs}: loss {record['loss']:.4f}, training {record['train_accuracy']:.1f} %"
        f"{tail} ({seconds:.0f} s)"
    )
