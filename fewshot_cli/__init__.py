"""fsl: few-shot image classification by optimal matching.

The names below are public: they stay as they are within a major version. Each is imported when it is used, so that
`import fewshot_cli` costs nothing.

The part folders `solvers/`, `backbones/`, `heads/` and `recipes/` stand beside this package in a checkout and inside
it once installed; both import as `fewshot_cli.solvers` and so on.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.errors import DataError, FslError, NotConverged, RecipeError
from fewshot_cli.version import __version__

if TYPE_CHECKING:
    from fewshot_cli.api.photos import Match, classify, match
    from fewshot_cli.api.results import Comparison, Prediction, Predictions, Result, TrainingRun
    from fewshot_cli.api.transport import Status, TransportPlan, emd, plan, sinkhorn, solver
    from fewshot_cli.api.work import Model, compare, evaluate, metatrain, pretrain

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "pyproject.toml").is_file() and (_ROOT / "solvers").is_dir():
    __path__.append(str(_ROOT))

# After an operation PyTorch's OpenMP threads wait by spinning, for milliseconds, on the cores that the solvers' threads
# need next. Read when PyTorch is loaded, so it must be set before.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__all__ = [
    "Comparison",
    "DataError",
    "FslError",
    "Match",
    "Model",
    "NotConverged",
    "Prediction",
    "Predictions",
    "RecipeError",
    "Result",
    "Status",
    "TrainingRun",
    "TransportPlan",
    "__version__",
    "classify",
    "compare",
    "emd",
    "evaluate",
    "match",
    "metatrain",
    "plan",
    "pretrain",
    "sinkhorn",
    "solver",
]

_HOMES = {
    "photos": ("Match", "classify", "match"),
    "results": ("Comparison", "Prediction", "Predictions", "Result", "TrainingRun"),
    "transport": ("Status", "TransportPlan", "emd", "plan", "sinkhorn", "solver"),
    "work": ("Model", "compare", "evaluate", "metatrain", "pretrain"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"fewshot_cli.api.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
