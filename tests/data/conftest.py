"""Small images, made of seeded noise so that no two are the same, and stores made of them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot_cli import registry
from fewshot_cli.data.prepare import build_store
from fewshot_cli.data.store import open_store
from fewshot_cli.errors import DataError


@pytest.fixture(scope="session")
def pixels() -> Callable[..., np.ndarray]:
    def make(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def encoded(pixels) -> Callable[..., bytes]:
    def make(seed: int, height: int = 8, width: int = 8, form: str = "PNG") -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels(seed, height, width)).save(file, form)
        return file.getvalue()

    return make


@pytest.fixture
def prepare(tmp_path):
    """Prepare a dataset in a data root of its own: returns the opened store."""

    def run(dataset: str, *sources: Path, **options):
        cls = registry.dataset(dataset)
        root = tmp_path / f"root{len(list(tmp_path.glob('root*')))}"
        build_store(dataset, cls(cls.Options(**options)), list(sources), root)
        assert [p.name for p in root.iterdir()] == [dataset], "something else was left in the data root"
        return open_store(root, dataset)

    return run


@pytest.fixture
def refused(tmp_path, prepare):
    """Prepare a dataset that must be refused, leaving nothing: returns the sentence."""

    def run(dataset: str, *sources: Path, **options) -> str:
        before = len(list(tmp_path.glob("root*")))
        with pytest.raises(DataError) as fault:
            prepare(dataset, *sources, **options)
        assert list((tmp_path / f"root{before}").iterdir()) == []
        return str(fault.value)

    return run
