"""Weights of a finished run in half precision, to be passed on: small, with all that their sidecar should say."""

from pathlib import Path
from typing import Any

import torch

from fewshot_cli.errors import DataError, FslError
from fewshot_cli.runtime.runs import SUMMARY, Run
from fewshot_cli.weights import checkpoint

TIMES = "times.jsonl"  # of each stage of training in a run's directory


def pack(run: Path, out: Path, force: bool) -> dict[str, Any]:
    """Write the weights of a run's directory as float16, and return their sidecar.

    Beside what the run's own sidecar holds it has the hours of training and the machines that they were spent on.
    Raises `DataError` for a run that is not finished and for values that float16 cannot hold, `FslError` for an `out`
    that must not be written.
    """
    if out.suffix != ".safetensors":
        raise FslError(f"{out}: must end in .safetensors; write -o {out.with_suffix('.safetensors')}")
    if out.exists() and not force:
        raise FslError(f"{out}: already exists; give another name, or --force to replace it")
    if not (run / SUMMARY).is_file():
        raise DataError(f"{run}: is not the directory of a finished training run; finish it with --resume")
    loaded = checkpoint.load(run / "weights.safetensors")
    tensors = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in loaded.tensors.items()}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"{loaded.path}: {key} holds values beyond float16; these weights cannot be packed")
    times = [record for path in sorted(run.rglob(TIMES)) for record in Run.records(path)]
    kept = {key: value for key, value in loaded.sidecar.items() if key not in ("format", "sha256")}
    sidecar = {
        **kept,
        "precision": "float16",
        "packed_from": loaded.sha256,
        "epochs": len(times),
        "hours": round(sum(record["seconds"] for record in times) / 3600, 2),
        "machines": sorted({record["machine"] for record in times if "machine" in record}),
    }
    return {"path": str(out), "sha256": checkpoint.save_tensors(out, tensors, sidecar), **sidecar}
