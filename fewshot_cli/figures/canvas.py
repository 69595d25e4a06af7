"""Figures, drawn by Matplotlib without a display."""

from pathlib import Path
from typing import Any

from fewshot_cli.errors import FslError
from fewshot_cli.runtime.files import guarded

ENDINGS = (".png", ".svg", ".pdf")


def _pyplot() -> Any:  # Matplotlib is imported only when something is drawn
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a $ in a name is a $
    from matplotlib import pyplot

    return pyplot


def check(path: Path) -> None:
    """Refuse a figure's name before its work is done. Raises `FslError` for an ending that is not supported."""
    if path.suffix.lower() not in ENDINGS:
        raise FslError(f"{path}: is not a figure; end the name in .png, .svg or .pdf")


def save(path: Path, figure: Any) -> None:
    """Write and close a figure, making its folder. Raises `DataError` when the disk refuses."""
    with guarded(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    _pyplot().close(figure)
