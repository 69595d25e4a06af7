"""Weights as safetensors with a sidecar that says what they are and holds their SHA-256.

Tensors are named `backbone.…`, `classifier.…` and `head.…`. A foreign `.pth` is read only by PyTorch's weights-only
loader, which runs no code.
"""

import json
import pickle
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from fewshot_cli.errors import DataError
from fewshot_cli.files import atomic, guarded, sha256, write_json


@dataclass(frozen=True)
class Checkpoint:
    """Loaded weights: tensors by full name, the sidecar, the SHA-256 of the file, and where it was."""

    tensors: dict[str, Tensor]
    sidecar: dict[str, Any]
    sha256: str
    path: Path

    def fill(self, module: nn.Module, prefix: str, what: str) -> None:
        """Copy the tensors under `prefix.` into a module. Raises `DataError` naming the first that does not fit."""
        own = {k.removeprefix(prefix + "."): v for k, v in self.tensors.items() if k.startswith(prefix + ".")}
        target = module.state_dict()
        made = self.sidecar.get(prefix, {}).get("name")
        of = f" (these are weights of {made})" if made else ""
        for name, tensor in target.items():
            if name not in own:
                raise DataError(
                    f"{self.path}: has no {prefix}.{name}, which {what} needs{of}; use weights of this {prefix}"
                )
            if own[name].shape != tensor.shape:
                raise DataError(f"{self.path}: {prefix}.{name} is {list(own[name].shape)}, {what} needs "
                                f"{list(tensor.shape)}{of}; use weights of this {prefix}")  # fmt: skip
        extra = sorted(set(own) - set(target))
        if extra:
            raise DataError(f"{self.path}: holds {prefix}.{extra[0]}, which {what} does not have{of}; "
                            f"use weights of this {prefix}")  # fmt: skip
        module.load_state_dict({k: own[k].to(target[k].dtype) for k in target})


def save(path: Path, modules: dict[str, nn.Module], sidecar: dict[str, Any]) -> str:
    """Write `path` and its sidecar `path.json`; returns the SHA-256. Raises `DataError` when the disk refuses."""
    tensors = {f"{prefix}.{k}": v.detach().cpu().contiguous()
               for prefix, module in modules.items() for k, v in module.state_dict().items()}  # fmt: skip
    return save_tensors(path, tensors, sidecar)


def save_tensors(path: Path, tensors: dict[str, Tensor], sidecar: dict[str, Any]) -> str:
    """Write tensors and their sidecar; the sidecar comes last, so that a pair is whole when it is there."""
    with atomic(path) as part:
        part.write_bytes(save_bytes(tensors))
    digest = sha256(path)
    write_json(sidecar_of(path), {"format": 1, "sha256": digest, **sidecar})
    return digest


def sidecar_of(path: Path) -> Path:
    """The sidecar's path of a weights file."""
    return path.with_name(path.name + ".json")


def load(path: Path) -> Checkpoint:
    """Read weights. Raises `DataError` for truncation, a flipped byte, NaN, a missing sidecar or a pickle with code."""
    if not path.is_file():
        raise DataError(f"{path}: no such weights file; give --weights the .safetensors of a training run")
    if path.suffix in (".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl"):
        return _foreign(path)
    with guarded(path):
        blob = path.read_bytes()
    import hashlib

    digest = hashlib.sha256(blob).hexdigest()
    try:
        sidecar = json.loads(sidecar_of(path).read_text("utf-8"))
        expected = sidecar["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DataError(f"{sidecar_of(path)}: the sidecar of {path.name} is missing or unreadable ({fault}); "
                        "copy both files from where they were trained") from fault  # fmt: skip
    if digest != expected:
        raise DataError(f"{path}: SHA-256 is {digest[:16]}…, its sidecar says {str(expected)[:16]}…: truncated or changed; "
                        "copy both files again")  # fmt: skip
    try:
        tensors = load_bytes(blob)
    except (SafetensorError, ValueError) as fault:
        raise DataError(f"{path}: is not a safetensors file ({fault}); copy it again") from fault
    return _finite(Checkpoint(tensors, sidecar, digest, path))


def _foreign(path: Path) -> Checkpoint:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        raise DataError(f"{path}: holds more than tensors, so loading it could run code; it was refused. "
                        "Use the .safetensors of a training run") from fault  # fmt: skip
    except Exception as fault:  # a damaged archive raises whatever its reader trips over
        raise DataError(f"{path}: is not a readable PyTorch file ({fault}); copy it again") from fault
    for key in ("params", "state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise DataError(f"{path}: is not a mapping of names to tensors; give a state_dict or a .safetensors file")
    named = {
        k if k.startswith(("backbone.", "head.", "classifier.")) else f"backbone.{k}": v for k, v in content.items()
    }
    return _finite(Checkpoint(named, {}, sha256(path), path))


def _finite(checkpoint: Checkpoint) -> Checkpoint:
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"{checkpoint.path}: {name} holds NaN or infinity; such weights are not used")
    return checkpoint


def shipped() -> dict[str, Path]:
    """Weights that ship with the package, by name."""
    folder = Path(str(resources.files("fewshot_cli"))) / "weights"
    return {p.name.removesuffix(".safetensors"): p for p in sorted(folder.glob("*.safetensors"))}
