"""A dataset of few-shot classification that a network learns in a second, and a recipe that trains on it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewshot_cli.data.writer import StoreWriter

RECIPE = """
dataset: {name: images, store: tiny}
image: {size: 16, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
backbone: {name: conv64, channels: 8, last_pool: false}
head: {name: emd}
episode: {way: 5, shot: 1, query: 3}
eval: {episodes: 7}
pretrain:
  epochs: 1
  batch: 64
  augment: {crop: pad, flip: false, jitter: 0.4}
  validation: {episodes: 4}
metatrain:
  epochs: 1
  steps: 2
  episodes_per_step: 2
  query: 3
  optimizer: {lr: 2e-3}
  augment: {crop: pad, flip: false, jitter: 0.4}
  validation: {episodes: 4}
"""
CLASSES = {"train": 12, "val": 5, "test": 5}
IMAGES = 16  # in each class
PRETRAINED = (
    *("--set", "pretrain.epochs=3"),
    *("--set", "pretrain.ema=0.5"),
    *("--set", "pretrain.mix={cutmix: 1.0, share: 0.3}"),
)


@dataclass(frozen=True)
class Tiny:
    """Where the dataset and its recipe lie."""

    root: Path
    recipe: Path

    @property
    def words(self) -> tuple[str, ...]:
        """Options of every command that works on it."""
        return ("--recipe", str(self.recipe), "--data-root", str(self.root))


def make(folder: Path) -> Tiny:
    """Each class has a green bar at its place and red in its strength, both under noise."""
    rng = np.random.default_rng(0)
    with StoreWriter(folder / "data", "tiny", {"dataset": "Images", "licence": "MIT", "sources": []}) as writer:
        for number, (split, c) in enumerate((split, c) for split, count in CLASSES.items() for c in range(count)):
            for i in range(IMAGES):
                pixels = rng.integers(0, 80, (16, 16, 3), dtype=np.uint8)
                place = 2 * (number % 8)
                pixels[:, place : place + 2, 1] += 160
                pixels[..., 0] += np.uint8(50 * (number // 8))
                writer.add(split, f"{split}{c}", pixels, f"{split}/{c}/{i}")
        writer.finish()
    (folder / "tiny.yaml").write_text(RECIPE)
    return Tiny(folder / "data", folder / "tiny.yaml")
