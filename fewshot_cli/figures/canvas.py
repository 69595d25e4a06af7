"""Figures, drawn by Matplotlib without a display, and without touching what the caller's own program draws."""

import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fewshot_cli.errors import FslError
from fewshot_cli.figures.style import STYLE
from fewshot_cli.runtime.files import atomic

ENDINGS = (".png", ".svg", ".pdf")
# a figure's file has no date: the same figure is the same file
_UNDATED: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Draw in the style of all figures, whatever the style around is."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        import matplotlib  # only when something is drawn

        with matplotlib.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box in its place is seen in the figure
            return draw(*args, **kwargs)

    return drawn


def new(width: float, height: float, **more: Any) -> Any:
    """An empty figure of a size in inches. It belongs to no window, so nobody must close it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **more)


def check(path: Path) -> None:
    """Refuse a figure's name before its work is done. Raises `FslError` for an ending that is not supported."""
    if path.suffix.lower() not in ENDINGS:
        raise FslError(f"{path}: is not a figure; end the name in .png, .svg or .pdf")


@styled
def save(path: Path, figure: Any) -> None:
    """Write a figure, making its folder. Raises `DataError` when the disk refuses."""
    ending = path.suffix.lower()
    with atomic(path) as part:
        figure.savefig(part, format=ending[1:], metadata=_UNDATED[ending])
