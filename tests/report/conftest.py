"""Two evaluations of a dataset whose classes have dangerous names, and the report of one of them."""

from pathlib import Path

import numpy as np
import pytest
from nasty import NASTY
from tiny import RECIPE

from fewshot_cli.data.writer import StoreWriter


@pytest.fixture(scope="session")
def nasty(tmp_path_factory, children) -> Path:
    """A folder with a dataset whose classes have dangerous names, its recipe, and two evaluations of it."""
    folder, rng = tmp_path_factory.mktemp("nasty"), np.random.default_rng(0)
    with StoreWriter(folder / "data", "tiny", {"dataset": "Images", "licence": "MIT", "sources": []}) as writer:
        for split in ("train", "val", "test"):
            for c, name in enumerate(NASTY):
                for i in range(8):
                    pixels = rng.integers(0, 80, (16, 16, 3), dtype=np.uint8)
                    pixels[:, 3 * c : 3 * c + 2, 1] += 160
                    writer.add(split, name, pixels, f"{name}-{i}")
        writer.finish()
    (folder / "nasty.yaml").write_text(RECIPE)
    words = ("--recipe", "nasty.yaml", "--data-root", "data", "--weights", "none", "--episodes", "12")
    children.run("eval", *words, "--run-dir", "one", cwd=folder, check=True)
    children.run("eval", *words, "--set", "head=prototype", "--run-dir", "two", cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def first(nasty, children) -> tuple[Path, str]:
    """The report of the first, and what was said."""
    made = children.run("report", "one", "-o", "one.html", "--data-root", "data", cwd=nasty, check=True)
    return nasty / "one.html", made.stderr
