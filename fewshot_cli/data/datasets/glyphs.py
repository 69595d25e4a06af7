"""The embedded default dataset: invented characters, displaced and over clutter, drawn by the package itself.

Only correctly rounded operations (+ − × ÷ √, minimum, maximum) on numbers from a counter-based generator are used, so
that every machine draws the same bytes; the store's hash is compared with the recorded one.
"""

from pathlib import Path

import numpy as np

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options

SIDE, PER_CLASS, STROKES, CLUTTER = 32, 120, 5, 6
CLASSES = {"train": 64, "val": 16, "test": 20}
SHA256 = "b53439610ba1387afca314889e6083af563be08819289533328c83b5f4ec6146"  # of the store


class Glyphs(DatasetBuilder[Options]):
    """Glyphs: 64/16/20 invented characters × 120 images of 32×32, with clutter and displacement; drawn in seconds."""

    source = "nothing: the package draws it"
    embedded = True
    licence = "made by this package; MIT"
    sha256 = SHA256

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Draw every class from its own counter of the generator."""
        number = 0
        for split, count in CLASSES.items():
            for _ in range(count):
                for i, pixels in enumerate(draw_class(number)):
                    writer.add(split, f"glyph{number:03d}", pixels, f"glyph{number:03d}/{i:03d}")
                number += 1


def _uniform(counter: tuple[int, int], *shape: int) -> np.ndarray:
    """Uniform numbers in [0,1) with 24 bits, so that float32 holds them exactly."""
    raw = np.random.Philox(key=20, counter=[0, *counter, 0]).random_raw(int(np.prod(shape)))
    return ((raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(shape)


def skeleton(cls: int) -> np.ndarray:
    """The strokes of a class: segments [STROKES, 4] (x0, y0, x1, y1) in the unit square, most of them joined."""
    u = _uniform((cls, 1), STROKES + 1, 3)
    points = u[:, :2] * np.float32(0.9) + np.float32(0.05)
    starts = points[:-1].copy()
    lifted = u[1:, 2] < 0.3  # pen lifted: the stroke begins at an older point
    starts[lifted] = points[0]
    return np.concatenate([starts, points[1:]], 1)


def draw_class(cls: int) -> np.ndarray:
    """All images of a class: uint8 [PER_CLASS, SIDE, SIDE, 3]."""
    u = iter(np.moveaxis(_uniform((cls, 2), PER_CLASS, 64), 1, 0))
    f32, one = np.float32, np.float32(1)

    def between(low: float, high: float) -> np.ndarray:
        return next(u) * f32(high - low) + f32(low)

    size = between(12, 19)
    tilt = between(-0.35, 0.35)
    norm = np.sqrt(one + tilt * tilt)
    cos, sin, shear = one / norm, tilt / norm, between(-0.25, 0.25)
    room = f32(SIDE) - size
    left, top = next(u) * room, next(u) * room
    wobble = (_uniform((cls, 3), PER_CLASS, STROKES, 4) - f32(0.5)) * f32(0.12)
    strokes = skeleton(cls)[None] + wobble
    x = strokes[..., 0::2] - f32(0.5)
    y = strokes[..., 1::2] - f32(0.5)
    x = x + shear[:, None, None] * y
    across, down = cos[:, None, None] * x - sin[:, None, None] * y, sin[:, None, None] * x + cos[:, None, None] * y
    half = f32(0.5)
    xs = (across + half) * size[:, None, None] + left[:, None, None]
    ys = (down + half) * size[:, None, None] + top[:, None, None]
    ink = _coverage(xs, ys, between(0.8, 1.3))
    stray = _uniform((cls, 4), PER_CLASS, CLUTTER, 4)
    reach = (stray[..., 2:] - half) * f32(22)
    sx = np.stack([stray[..., 0] * f32(SIDE), stray[..., 0] * f32(SIDE) + reach[..., 0]], -1)
    sy = np.stack([stray[..., 1] * f32(SIDE), stray[..., 1] * f32(SIDE) + reach[..., 1]], -1)
    noise = _coverage(sx, sy, between(0.5, 1.1))
    paper = _ground(_uniform((cls, 5), PER_CLASS, 5, 5, 3))
    pen = _uniform((cls, 6), PER_CLASS, 2, 3)
    dark = (next(u) < half)[:, None]
    pen_ink = np.where(dark, pen[:, 0] * f32(0.3), one - pen[:, 0] * f32(0.3))
    pen_noise = pen_ink + (pen[:, 1] - half) * f32(0.7)
    paper = np.where(dark[:, :, None, None], paper * f32(0.6) + f32(0.4), paper * f32(0.6))
    noise, ink = (noise * f32(0.8))[..., None], ink[..., None]
    image = paper * (one - noise) + pen_noise[:, None, None, :] * noise
    image = image * (one - ink) + pen_ink[:, None, None, :] * ink
    grain = (_uniform((cls, 7), PER_CLASS, SIDE, SIDE, 3) - half) * f32(0.12)
    return np.floor(np.clip(image + grain, 0, 1) * f32(255) + half).astype(np.uint8)


def _coverage(xs: np.ndarray, ys: np.ndarray, width: np.ndarray) -> np.ndarray:
    """How much of each pixel the segments xs, ys [N,S,2] of half-width `width` [N] cover: [N,SIDE,SIDE] in [0,1]."""
    grid = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
    best = np.full((len(xs), SIDE, SIDE), 1e6, np.float32)
    for s in range(xs.shape[1]):
        x0, y0 = xs[:, s, 0, None, None], ys[:, s, 0, None, None]
        dx, dy = xs[:, s, 1, None, None] - x0, ys[:, s, 1, None, None] - y0
        px, py = grid[None, None, :] - x0, grid[None, :, None] - y0
        along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + np.float32(1e-6)), 0, 1)
        ox, oy = px - along * dx, py - along * dy
        best = np.minimum(best, ox * ox + oy * oy)
    return np.clip(width[:, None, None] + np.float32(0.5) - np.sqrt(best), 0, 1)


def _ground(corners: np.ndarray) -> np.ndarray:
    """Smooth background: corner colours [N,5,5,3] interpolated to [N,SIDE,SIDE,3]."""
    at = np.arange(SIDE, dtype=np.float32) * np.float32(4 / SIDE)
    low = at.astype(np.int64)
    part = (at - low.astype(np.float32))[:, None]
    one = np.float32(1)
    rows = corners[:, low] * (one - part)[None, :, None] + corners[:, low + 1] * part[None, :, None]
    return rows[:, :, low] * (one - part)[None, None] + rows[:, :, low + 1] * part[None, None]
