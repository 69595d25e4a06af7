"""fsl: few-shot image classification by optimal matching.

The part folders `solvers/`, `backbones/`, `heads/` and `recipes/` stand beside this package in a checkout and inside
it once installed; both import as `fewshot_cli.solvers` and so on.
"""

from pathlib import Path

from fewshot_cli.version import __version__

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "solvers").is_dir():
    __path__.append(str(_ROOT))

__all__ = ["__version__"]
