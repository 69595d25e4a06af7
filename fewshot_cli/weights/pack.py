"""Weights of a finished run in half precision, to be passed on: small, with all that their sidecar should say."""

from pathlib import Path
from typing import Any

import torch

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.runs import SUMMARY, TIMES, Run
from fewshot_cli.weights import checkpoint


def _cost(run: Path) -> dict[str, Any]:
    """Epochs, seconds and machines of all stages of training, as far as the run recorded them."""
    files = sorted(run.rglob(TIMES))
    try:
        times = [record for path in files for record in Run.records(path)]
        seconds = sum(record["seconds"] for record in times)
        machines = sorted({record["machine"] for record in times if "machine" in record})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run}: {TIMES} does not hold the seconds of its epochs ({error}); remove it") from error
    return {"epochs": len(times), "seconds": round(seconds), "machines": machines} if times else {}


def pack(run: Path, out: Path, force: bool) -> dict[str, Any]:
    """Write the weights of a run's directory as float16, and return their sidecar.

    Beside what the run's own sidecar holds it has the seconds of training and the machines that they were spent on.
    Raises `DataError` for a run that is not finished and for values that float16 cannot hold, `FslError` for an `out`
    that must not be written.
    """
    checkpoint.refuse_output(out, force)
    if not (run / SUMMARY).is_file():
        raise DataError(f"{run}: is not the directory of a finished training run; finish it with --resume")
    loaded = checkpoint.load(run / "weights.safetensors")
    tensors = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in loaded.tensors.items()}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"{loaded.path}: {key} holds values beyond float16; these weights cannot be packed")
    kept = {key: value for key, value in loaded.sidecar.items() if key not in ("format", "sha256")}
    sidecar = {
        **kept,
        "precision": "float16",
        "packed_from": loaded.sha256,
        **_cost(run),
    }
    return {"path": str(out), "sha256": checkpoint.save_tensors(out, tensors, sidecar), **sidecar}
