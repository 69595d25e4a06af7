"""Small pictures, made of seeded noise so that no two are the same."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image


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
