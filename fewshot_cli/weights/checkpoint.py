"""Weights as safetensors with a sidecar that says what they are and holds their SHA-256.

Tensors are named `backbone.…`, `classifier.…` and `head.…`. A foreign `.pth` is read only by PyTorch's weights-only
loader, which runs no code; other people's names for a backbone's tensors are those of `foreign`.
"""

import hashlib
import json
import pickle
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from fewshot_cli.errors import DataError, FslError
from fewshot_cli.registry import did_you_mean, entries, of_another_kind
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import atomic, guarded, regular, sha256, write_json
from fewshot_cli.weights import foreign, unpickle


@dataclass(frozen=True)
class Checkpoint:
    """Loaded weights: tensors by full name, the sidecar, the SHA-256 of the file, and where it was."""

    tensors: dict[str, Tensor]
    sidecar: dict[str, Any]
    sha256: str
    path: Path

    @property
    def saw(self) -> list[str]:
        """The data that they were trained on, as far as the sidecar tells; `unknown` where it does not."""
        saw = self.sidecar.get("saw")
        if isinstance(saw, list) and all(isinstance(name, str) for name in saw):
            return saw
        name = self.sidecar.get("dataset", {}).get("name")
        return [name if isinstance(name, str) else "unknown"]

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


def of_tensors(tensors: Mapping[str, Tensor], sidecar: dict[str, Any], source: Path) -> Checkpoint:
    """Weights that are in no file of ours, `source` standing for their place in messages. Raises as `load`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return _finite(Checkpoint(dict(tensors), sidecar, digest.hexdigest(), source))


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
    """Read weights. Raises `DataError` for truncation, a flipped byte, NaN or a pickle with code; a file that has no
    sidecar is somebody else's, of which a note says that nothing tells whether it is whole.
    """
    if not regular(path).is_file():
        hint = of_another_kind(str(path)) or did_you_mean(str(path), entries("weights"))
        raise DataError(
            f"{path}: no such weights{hint}; give the .safetensors of a training run, or a name of `fsl weights list`"
        )
    refuse_other_content(path)
    if not is_safetensors(path):
        return _foreign(path)
    if not sidecar_of(path).exists():
        say(f"note: {path}: has no sidecar {sidecar_of(path).name}, so nothing tells whether it is whole and unchanged")
        return _foreign(path)
    with guarded(path):
        blob = path.read_bytes()
    digest = hashlib.sha256(blob).hexdigest()
    try:
        sidecar = json.loads(regular(sidecar_of(path)).read_text("utf-8"))
        expected = sidecar["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{sidecar_of(path)}: the sidecar of {path.name} is unreadable ({error}); "
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


# How files begin that are given for weights by mistake
_OTHER_CONTENT = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"RIFF": "an image or sound",
    b"%PDF": "a PDF",
    b"<!DO": "a web page, as failed downloads leave it",
    b"<!do": "a web page, as failed downloads leave it",
    b"<htm": "a web page, as failed downloads leave it",
    b"versi": "a pointer of Git LFS, not the file itself (git lfs pull)",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
}


def refuse_other_content(path: Path) -> None:
    """Raise `DataError` for a file whose beginning says that it holds something else than weights."""
    with guarded(path), regular(path).open("rb") as file:
        start = file.read(8)
    if what := next((what for begin, what in _OTHER_CONTENT.items() if start.startswith(begin)), None):
        raise DataError(f"{path}: is {what}; give weights, a .safetensors or .pth, or a name of `fsl weights list`")


def is_safetensors(path: Path) -> bool:
    """Whether a file is taken for safetensors, by its content where that tells, else by its name."""
    with guarded(path), regular(path).open("rb") as file:
        start = file.read(9)
    if start.startswith((b"PK", b"\x80")) and start[8:] != b"{":
        return False
    return start[8:] == b"{" or path.suffix.lower() == ".safetensors"


def _foreign(path: Path) -> Checkpoint:
    """Somebody else's file as it is: names without a prefix of ours are the backbone's; see `Checkpoint.fill`."""
    raw = _read(path)
    prefixes = ("backbone.", "head.", "classifier.")
    tensors = {k if k.startswith(prefixes) else f"backbone.{k}": v for k, v in raw.tensors.items()}
    return Checkpoint(tensors, {}, raw.sha256, path)


def _read(path: Path) -> Checkpoint:
    """The tensors of a file that need not be ours, by the names in it; no code in it is run. Raises `DataError`."""
    if not regular(path).is_file():
        raise DataError(f"{path}: no such weights file; give a .pth (or .safetensors) that holds a state_dict")
    refuse_other_content(path)
    with guarded(path):
        digest = sha256(path)
        with path.open("rb") as file:
            start = file.read(2)
        if tarfile.is_tarfile(path):
            raise DataError(f"{path}: is a tar archive; unpack it and give the .pth inside")
    try:
        content: Any
        if is_safetensors(path):
            content = load_bytes(path.read_bytes())
        elif not start.startswith((b"PK", b"\x80")):  # often the web page of a failed download
            raise ValueError("it is neither an archive nor a pickle")
        else:
            content = unpickle.load(path)
    except unpickle.Unsupported as error:
        raise DataError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        raise DataError(
            f"{path}: holds more than tensors, so loading it could run code{f' ({asked[1]})' if asked else ''}; it was "
            "refused. Use the .safetensors of a training run, or a file of the state_dict alone"
        ) from error
    except Exception as error:  # a damaged archive raises whatever its reader trips over
        said = str(error).partition("\n")[0]
        raise DataError(f"{path}: is not a readable file of PyTorch tensors ({said}); copy it again") from error
    tensors = _state_dict(content, path)
    if not tensors or not all(_plain(k, v) for k, v in tensors.items()):
        raise DataError(f"{path}: is not a mapping of names to tensors; give a state_dict or a .safetensors file")
    return _finite(Checkpoint(tensors, {}, digest, path))


_NOT_THE_MODEL = re.compile(rf"^(?:optim|sched|scaler)|{foreign.COPY.pattern}", re.IGNORECASE)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of the network in a checkpoint, by name: those of a known backbone if there are any, else the most;
    a network's own before its averages, and the outermost mapping before those in it. A note says so where there were
    several.
    """
    found = []
    for place, named in unpickle.mappings(content):
        tensors = {key: tensor for key, value in named.items() if (tensor := unpickle.tensor_of(value)) is not None}
        if tensors:
            known = foreign.recognise(tensors) is not None
            second = any(_NOT_THE_MODEL.search(name) for name in place)
            found.append((not known, second, 0 if known else -len(tensors), len(place), place, tensors))
    if not found:
        return {}
    found.sort(key=lambda one: one[:4])
    others = [".".join(one[4]) for one in found[1:] if not one[0] and not found[0][0]]
    if others:
        taken = ".".join(found[0][4]) or "the outermost"
        say(f"note: {path}: holds several networks; {taken} is taken, not {', '.join(others)}")
    return _of_the_network(found[0][5], path)


def _of_the_network(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors without those of other parts that cannot be used, such as a mask of infinities; a note where several
    whole networks are in one mapping.
    """
    whole = foreign.recognised(tensors)
    if not whole:
        return tensors
    first = whole[0].prefix
    others = [other for other in dict.fromkeys(one.prefix for one in whole) if other != first]
    if others:
        say(f"note: {path}: holds several networks; {first or 'the outermost'} is taken, not {', '.join(others)}")

    def used(key: str, tensor: Tensor) -> bool:
        return key.startswith(first) or (_plain(key, tensor) and _is_finite(tensor))

    return {key: tensor for key, tensor in tensors.items() if used(key, tensor)}


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
        and tensor.untyped_storage().nbytes()
        >= tensor.numel() * tensor.itemsize  # or a few bytes would fill the memory
    )


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _finite(checkpoint: Checkpoint) -> Checkpoint:
    for name, tensor in checkpoint.tensors.items():
        if not _is_finite(tensor):
            raise DataError(f"{checkpoint.path}: {name} holds NaN or infinity; such weights are not used")
    return checkpoint
