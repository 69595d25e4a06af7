"""Pickles of arrays and plain containers, read without running any code in them."""

import io
import pickle
from typing import Any, BinaryIO

from fewshot_cli.errors import DataError


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
    except Exception as error:  # a hostile pickle can raise anything
        raise DataError(f"{where}: is not a plain data pickle ({error}); download the archive again") from error
