"""A small recipe with its data and weights that tests of bad input spoil, and what they look for afterwards."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fewshot_cli import registry
from fewshot_cli.weights import checkpoint

GOOD = """\
dataset: {name: images}
image: {size: 16}
backbone: {name: conv64, channels: 4, last_pool: false}
head: {name: prototype}
episode: {way: 3, shot: 1, query: 2}
eval: {episodes: 3}
"""
SIDECAR = {"backbone": {"name": "conv64", "channels": 4, "last_pool": False}}


def images(folder: Path, classes: list[str], each: int = 8, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for cls in classes:
        (folder / cls).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / cls / f"{i}.png")
    return folder


def arguments(world: Path, *more: object) -> list[str]:
    return [
        "eval",
        "--recipe",
        str(world / "good.yaml"),
        "--weights",
        str(world / "weights.safetensors"),
        "--data-root",
        str(world / "data"),
        *map(str, more),
    ]


def left(folder: Path) -> list[str]:
    """Files in a folder and below that look half-written."""
    return [str(p) for p in folder.rglob("*") if ".part" in p.name or p.name.startswith(".") or p.name.endswith(".tmp")]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def other(path: Path, **options: object) -> Path:
    """Weights of a network with other options."""
    cls = registry.backbone("conv64")
    checkpoint.save(path, {"backbone": cls(cls.Options(**options))}, {"backbone": {"name": "conv64", **options}})
    return path


def started(words: list[str], cwd: Path, **more: object) -> subprocess.Popen:
    """A command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "fewshot_cli", *words], cwd=cwd, stderr=subprocess.PIPE, text=True, **more
    )
