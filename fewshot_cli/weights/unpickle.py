"""What checkpoints hold beside tensors, read without running any of it: numbers of NumPy, and plain containers.

PyTorch's weights-only loader refuses every class that is not on its list. The names below are put on it with harmless
stand-ins of our own, so that neither NumPy's unpickling nor a foreign class is reached.
"""

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

_NUMBERS = re.compile(r"[biuf][1248]")
_WRAPPED = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
MOST = 20  # times its own size that a file may unpack to: PyTorch does not pack


class Unsupported(Exception):
    """A file that PyTorch's weights-only loader cannot read, though there may be nothing wrong with it."""


class Unknown:
    """A value that nothing here asks for, such as a date, a path or a configuration."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __new__(cls, *_: Any, **__: Any) -> "Unknown":
        return object.__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


class _Type:
    """`numpy.dtype` of a number."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = _text(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else "="

    def values(self, data: Any) -> np.ndarray | None:
        """The numbers in these bytes; None where the type is of something else."""
        if not isinstance(data, bytes) or not _NUMBERS.fullmatch(self.code):
            return None
        return np.frombuffer(data, np.dtype((self.order if self.order in ("<", ">") else "=") + self.code))


class _Array:
    """`numpy.ndarray` of numbers: `value`, or None."""

    value: np.ndarray | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        flat = kind.values(data) if isinstance(kind, _Type) else None
        if flat is not None:
            self.value = flat.reshape(shape, order="F" if fortran else "C")


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _scalar(kind: Any = None, data: Any = b"", *_: Any) -> Any:
    values = kind.values(data) if isinstance(kind, _Type) else None
    return values[0].item() if values is not None and values.size == 1 else None


def _array(*_: Any) -> _Array:
    return _Array()


def _bytes(text: Any = "", *_: Any) -> bytes:
    """`_codecs.encode`: how old pickles write bytes."""
    return text.encode("latin1") if isinstance(text, str) else b""


def _mapping(*_: Any) -> "OrderedDict[Any, Any]":
    return OrderedDict()


def _sequence(items: Any = (), *_: Any) -> tuple[Any, ...]:
    return tuple(items) if isinstance(items, (list, tuple)) else ()


def _names(module: str, names: str) -> list[str]:
    return [f"{module}.{name}" for name in names.split()]


_PATHS = "PosixPath WindowsPath PurePosixPath PureWindowsPath"
_BUILTINS = "int float str bool bytes list tuple dict complex bytearray slice range object"
_STAND_INS: list[tuple[Any, list[str]]] = [
    (_scalar, [*_names("numpy.core.multiarray", "scalar"), *_names("numpy._core.multiarray", "scalar")]),
    (_array, [*_names("numpy.core.multiarray", "_reconstruct"), *_names("numpy._core.multiarray", "_reconstruct")]),
    (_Array, ["numpy.ndarray"]),
    (_Type, ["numpy.dtype"]),
    (_bytes, ["_codecs.encode"]),
    (_mapping, ["collections.defaultdict"]),
    (_sequence, [*_names("builtins", "set frozenset"), *_names("__builtin__", "set frozenset")]),
    (
        OrderedDict,
        [
            *("easydict.EasyDict", "addict.addict.Dict", "yacs.config.CfgNode", "fvcore.common.config.CfgNode"),
            *_names("lightning_fabric.utilities.data", "AttributeDict"),
            *_names("lightning.fabric.utilities.data", "AttributeDict"),
            *_names("pytorch_lightning.utilities.parsing", "AttributeDict"),
        ],
    ),
    (
        Unknown,
        [
            *(
                "collections.deque",
                "datetime.timezone",
                "argparse.Namespace",
                "types.SimpleNamespace",
                "typing.Any",
                "uuid.UUID",
                "decimal.Decimal",
            ),
            *_names("datetime", "datetime date time timedelta"),
            *_names("pathlib", _PATHS),
            *_names("pathlib._local", _PATHS),
            *_names("omegaconf.dictconfig", "DictConfig"),
            *_names("omegaconf.listconfig", "ListConfig"),
            *_names("numpy", "float16 float32 float64 int8 int16 int32 int64 uint8 bool_"),
            *_names("omegaconf.base", "Metadata ContainerMetadata"),
            *_names("omegaconf.nodes", "AnyNode StringNode IntegerNode FloatNode BooleanNode PathNode"),
            *_names("builtins", _BUILTINS),
            *_names("__builtin__", _BUILTINS),
        ],
    ),
]


def load(path: Path) -> Any:
    """The content of a file of PyTorch's, its tensors on the CPU; other things of known classes are `Unknown`.

    Raises `pickle.UnpicklingError` for classes and functions that are not known.
    """
    _check_size(path)
    known: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (stand_in, name) for stand_in, names in _STAND_INS for name in names
    ]
    with torch.serialization.safe_globals(known), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they advise to load it with code
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except RuntimeError as error:
            if "TorchScript" in str(error):
                raise Unsupported(
                    "is a TorchScript program; give the state_dict of the network it was made from"
                ) from error
            raise
        except pickle.UnpicklingError as error:
            if "Unsupported operand" in str(error) or "pickle protocol" in str(error):
                raise Unsupported(
                    "is pickled in a way that only code can read; where it was made, save it once more with "
                    "torch.save(state_dict, path)"
                ) from error
            raise


def _check_size(path: Path) -> None:
    """Raise `Unsupported` for an archive that would fill the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST * path.stat().st_size + (1 << 20):
            raise Unsupported(f"would unpack to {size:,} bytes from {path.stat().st_size:,}: a bomb; it was not read")


def tensor_of(value: Any) -> torch.Tensor | None:
    """A tensor, or the tensor of an array of numbers; else None."""
    if isinstance(value, _Array):
        array = value.value
        if array is None or array.dtype.kind == "u" and array.dtype.itemsize > 1:
            return None
        return torch.from_numpy(np.array(array.astype(array.dtype.newbyteorder("=")), order="C"))
    return value if isinstance(value, torch.Tensor) else None


def mappings(content: Any, depth: int = 4) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every mapping of names in a content, with the names that lead to it, the outermost first."""
    found: list[tuple[tuple[str, ...], dict[str, Any]]] = []
    layer: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen: set[int] = set()  # small files may hold one mapping a million times
    for _ in range(depth):
        below = []
        for place, value in layer:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, dict):
                found.append((place, {_WRAPPED.sub("", k): one for k, one in value.items() if isinstance(k, str)}))
                below += [((*place, str(key)), one) for key, one in value.items()]
            elif isinstance(value, (list, tuple)) and len(value) <= 8:
                below += [((*place, str(i)), one) for i, one in enumerate(value)]
        layer = below
    return found
