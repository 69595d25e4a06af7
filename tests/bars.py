"""A dataset of ordinary classification that a network learns in seconds, and a recipe for it."""

from pathlib import Path

import numpy as np

from fewshot_cli.data.writer import StoreWriter

RECIPE = """
dataset: {name: images, store: NAME}
image: {size: 16, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
backbone: {name: conv64, channels: 8, last_pool: false}
head: {name: prototype}
solver: {name: sinkhorn, regularisation: 0.1, stop: change, tolerance: 0.1, max_iterations: 100, gradient: unrolled}
eval: {protocol: classification}
pretrain:
  epochs: 6
  batch: 14
  classifier: CLASSIFIER
  optimizer: {lr: 0.1}
  augment: {crop: none, flip: false}
"""


def store(root: Path, name: str, splits: dict[str, int], shuffle: bool = False) -> None:
    """Seven classes, each a brightness of red and a place of a green bar, with noise."""
    rng = np.random.default_rng(0)
    with StoreWriter(root, name, {"dataset": "Images", "licence": "none", "sources": []}) as writer:
        for split, count in splits.items():
            for c in range(7):
                for i in range(count):
                    pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
                    pixels[:, 2 * c : 2 * c + 3, 1] += 150
                    pixels[..., 0] += np.uint8(20 * c)
                    writer.add(split, f"c{6 - c if shuffle else c}", pixels, f"{c}/{i}")
        writer.finish()


def write(name: str, place: str, classifier: str) -> str:
    Path(name).write_text(RECIPE.replace("NAME", place).replace("CLASSIFIER", classifier))
    return name
