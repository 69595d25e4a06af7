"""What several dataset builders share: class splits, pictures by class folder, and safe pickles."""

import io
import json
import pickle
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from fewshot_cli.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")


def class_split(name: str) -> dict[str, list[str]]:
    """The published class split shipped as `splits/<name>.json`: train, val and test class names."""
    return json.loads((Path(__file__).parent / "splits" / f"{name}.json").read_text("utf-8"))


def by_class_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """Group picture files by the folder that holds them: class name → sorted member names."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        pure = PurePosixPath(name)
        if pure.suffix.lower() in PICTURES and pure.parent.name:
            groups[pure.parent.name].append(name)
    return {cls: sorted(files) for cls, files in sorted(groups.items())}


class _Tame(pickle.Unpickler):
    """Unpickles plain containers and NumPy arrays, nothing else."""

    _ALLOWED = {
        ("_codecs", "encode"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
    }

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.")
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}")
        try:
            return super().find_class(module, name)
        except ModuleNotFoundError:  # NumPy 1 has the old name only
            return super().find_class(module.replace("numpy._core.", "numpy.core."), name)


def tame_pickle(data: bytes | BinaryIO, where: str) -> Any:
    """Load a pickle of arrays and containers. Raises `DataError` when it is damaged or wants to run code."""
    try:
        return _Tame(io.BytesIO(data) if isinstance(data, bytes) else data, encoding="bytes").load()
    except Exception as fault:  # a hostile pickle can raise anything
        raise DataError(f"{where}: is not a plain data pickle ({fault}); download the archive again") from fault
