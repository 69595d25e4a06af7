"""Where prepared datasets, cached features and runs lie. Importing it is cheap."""

import os
from pathlib import Path

RUNS = Path("runs")


def data_root(given: str | Path | None = None) -> Path:
    """The folder `given`, or `FSL_DATA_ROOT`, or the user's data folder."""
    if given is not None or os.environ.get("FSL_DATA_ROOT"):
        return Path(os.path.expanduser(given or os.environ["FSL_DATA_ROOT"]))
    from platformdirs import user_data_path

    return user_data_path("fsl", appauthor=False)
