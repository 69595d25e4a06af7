"""Weights as safetensors with a sidecar that says what they are and holds their SHA-256.

Tensors are named `backbone.…`, `classifier.…` and `head.…`. A foreign `.pth` is read only by PyTorch's weights-only
loader, which runs no code; other people's names for a backbone's tensors are those of `foreign`.
"""

import json
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from fewshot_cli.errors import DataError, FslError
from fewshot_cli.registry import did_you_mean, entries
from fewshot_cli.runtime.files import atomic, guarded, regular, sha256, write_json
from fewshot_cli.weights import foreign


@dataclass(frozen=True)
class Checkpoint:
    """Loaded weights: tensors by full name, the sidecar, the SHA-256 of the file, and where it was."""

    tensors: dict[str, Tensor]
    sidecar: dict[str, Any]
    sha256: str
    path: Path

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix + "."): v for k, v in self.tensors.items() if k.startswith(prefix + ".")}

    def fill_known(self, module: nn.Module, prefix: str) -> None:
        """Copy those tensors under `prefix.` that a module has in the same shape; others keep their values."""
        stored = self._under(prefix)
        fitting = {
            k: stored[k].to(v.dtype)
            for k, v in module.state_dict().items()
            if k in stored and stored[k].shape == v.shape
        }
        module.load_state_dict(fitting, strict=False)

    def fill(self, module: nn.Module, prefix: str, what: str) -> None:
        """Copy the tensors under `prefix.` into a module. Raises `DataError` naming the first that does not fit."""
        stored = self._under(prefix)
        target = module.state_dict()
        made = self.sidecar.get(prefix, {}).get("name")
        if not self.sidecar and prefix == "backbone" and set(stored) != set(target) and foreign.recognise(stored):
            translated = foreign.translate(stored, self.path)
            stored, made = translated.tensors, translated.backbone
        of = f" (these are weights of {made})" if made else ""
        for name, tensor in target.items():
            if name not in stored:
                raise DataError(
                    f"{self.path}: has no {prefix}.{name}, which {what} needs{of}; use weights of this {prefix}"
                )
            if stored[name].shape != tensor.shape:
                raise DataError(
                    f"{self.path}: {prefix}.{name} is {list(stored[name].shape)}, {what} needs "
                    f"{list(tensor.shape)}{of}; use weights of this {prefix}"
                )
        extra = sorted(set(stored) - set(target))
        if extra:
            raise DataError(
                f"{self.path}: holds {prefix}.{extra[0]}, which {what} does not have{of}; use weights of this {prefix}"
            )
        fitted = {k: stored[k].to(target[k].dtype) for k in target}
        for name, tensor in fitted.items():
            if tensor.dtype != stored[name].dtype and not torch.isfinite(tensor).all():
                raise DataError(
                    f"{self.path}: {prefix}.{name} holds values beyond {tensor.dtype}; such weights are not used"
                )
        module.load_state_dict(fitted)


def save(path: Path, modules: dict[str, nn.Module], sidecar: dict[str, Any]) -> str:
    """Write `path` and its sidecar `path.json`; returns the SHA-256. Raises `DataError` when the disk refuses."""
    tensors = {
        f"{prefix}.{k}": v.detach().cpu().contiguous()
        for prefix, module in modules.items()
        for k, v in module.state_dict().items()
    }
    return save_tensors(path, tensors, sidecar)


def save_tensors(path: Path, tensors: dict[str, Tensor], sidecar: dict[str, Any]) -> str:
    """Write tensors and their sidecar; the sidecar comes last, so that a pair is whole when it is there."""
    with atomic(path) as part:
        part.write_bytes(save_bytes(tensors))
    digest = sha256(path)
    write_json(sidecar_of(path), {"format": 1, "sha256": digest, **sidecar})
    return digest


def refuse_output(out: Path, force: bool) -> None:
    """Raise `FslError` where weights must not be written: another suffix, or a file in the way without `force`."""
    if out.suffix != ".safetensors":
        raise FslError(f"{out}: must end in .safetensors; write -o {out.with_suffix('.safetensors')}")
    if there := next((p for p in (out, sidecar_of(out)) if p.exists() and not force), None):
        raise FslError(f"{there}: already exists; give another name, or --force to replace it")


def sidecar_of(path: Path) -> Path:
    """The sidecar's path of a weights file."""
    return path.with_name(path.name + ".json")


def load(path: Path) -> Checkpoint:
    """Read weights. Raises `DataError` for truncation, a flipped byte, NaN, a missing sidecar or a pickle with code."""
    if not regular(path).is_file():
        hint = did_you_mean(str(path), entries("weights"))
        raise DataError(
            f"{path}: no such weights{hint}; give the .safetensors of a training run, or a name of `fsl weights list`"
        )
    if path.suffix in (".pth", ".pt", ".tar", ".ckpt", ".bin", ".pkl"):
        return _foreign(path)
    with guarded(path):
        blob = path.read_bytes()
    import hashlib

    digest = hashlib.sha256(blob).hexdigest()
    try:
        sidecar = json.loads(regular(sidecar_of(path)).read_text("utf-8"))
        expected = sidecar["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{sidecar_of(path)}: the sidecar of {path.name} is missing or unreadable ({error}); "
            "copy both files from where they were trained"
        ) from error
    for key in ("backbone", "head", "classifier", "dataset", "recipe", "validation"):
        if not isinstance(sidecar.get(key, {}), dict):
            raise DataError(f"{sidecar_of(path)}: {key} is not a mapping; copy both files from where they were trained")
    if digest != expected:
        raise DataError(
            f"{path}: SHA-256 is {digest[:16]}…, its sidecar says {str(expected)[:16]}…: truncated or changed; "
            "copy both files again"
        )
    try:
        tensors = load_bytes(blob)
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path}: is not a safetensors file ({error}); copy it again") from error
    return _finite(Checkpoint(tensors, sidecar, digest, path))


def _foreign(path: Path) -> Checkpoint:
    """A `.pth` as it is: names that say nothing else are the backbone's, and `Checkpoint.fill` translates them."""
    raw = _read(path)
    prefixes = ("backbone.", "head.", "classifier.")
    tensors = {k if k.startswith(prefixes) else f"backbone.{k}": v for k, v in raw.tensors.items()}
    return Checkpoint(tensors, {}, raw.sha256, path)


def _read(path: Path) -> Checkpoint:
    """The tensors of a file that need not be ours, by the names in it; no code in it is run. Raises `DataError`."""
    if not regular(path).is_file():
        raise DataError(f"{path}: no such weights file; give a .pth (or .safetensors) that holds a state_dict")
    with guarded(path):
        digest = sha256(path)
        with path.open("rb") as file:
            start = file.read(2)
        if tarfile.is_tarfile(path):
            raise DataError(f"{path}: is a tar archive; unpack it and give the .pth inside")
    try:
        content: Any
        if path.suffix == ".safetensors":
            content = load_bytes(path.read_bytes())
        elif not start.startswith((b"PK", b"\x80")):  # often the web page of a failed download
            raise ValueError("it is neither an archive nor a pickle")
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds more than tensors, so loading it could run code; it was refused. "
            "Use the .safetensors of a training run, or a file of the state_dict alone"
        ) from error
    except Exception as error:  # a damaged archive raises whatever its reader trips over
        said = str(error).partition("\n")[0]
        raise DataError(f"{path}: is not a readable file of PyTorch tensors ({said}); copy it again") from error
    for key in ("params", "state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not content or not all(_plain(k, v) for k, v in content.items()):
        raise DataError(f"{path}: is not a mapping of names to tensors; give a state_dict or a .safetensors file")
    return _finite(Checkpoint(content, {}, digest, path))


def _plain(name: Any, tensor: Any) -> bool:
    """Whether this is a printable name and an ordinary tensor: dense, real, with data, of 16 bits or more if a
    float.
    """
    return (
        isinstance(name, str)
        and name.isprintable()
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.is_complex())
        and not (tensor.is_floating_point() and tensor.itemsize < 2)
    )


def _finite(checkpoint: Checkpoint) -> Checkpoint:
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"{checkpoint.path}: {name} holds NaN or infinity; such weights are not used")
    return checkpoint
