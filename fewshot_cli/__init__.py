"""fsl: few-shot image classification by optimal matching.

The part folders `solvers/`, `backbones/`, `heads/` and `recipes/` stand beside this package in a checkout and inside
it once installed; both import as `fewshot_cli.solvers` and so on.
"""

import os
from pathlib import Path

from fewshot_cli.version import __version__

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "solvers").is_dir():
    __path__.append(str(_ROOT))

# After an operation PyTorch's OpenMP threads wait by spinning, for milliseconds, on the cores that the solvers' threads
# need next. Read when PyTorch is loaded, so it must be set before.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__all__ = ["__version__"]
