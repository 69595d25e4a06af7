"""The nearest of many directions: by NumPy, or by faiss where it is installed (Douze et al. 2024)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fewshot_cli.errors import FslError
from fewshot_cli.runtime.files import atomic

BLOCK = 65536  # rows that are compared at once
LARGE = 50_000  # images above which `auto` takes cells
ENGINES = ("auto", "numpy", "flat", "ivf")


class Engine(Protocol):
    """Directions that can be searched."""

    def nearest(self, queries: np.ndarray, count: int, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places [Q,count] and cosines [Q,count] of the nearest rows to queries [Q,d], the nearest first, without the
        places that are `gone`; place −1 where there are fewer.
        """


class Exact:
    """All rows, block by block, which need not fit into memory."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts = parts

    def nearest(self, queries: np.ndarray, count: int, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine`."""
        places: np.ndarray = np.full((len(queries), 0), -1, np.int64)
        values: np.ndarray = np.empty((len(queries), 0), np.float32)
        start = 0
        for part in self.parts:
            for low in range(0, len(part), BLOCK):
                block = np.asarray(part[low : low + BLOCK])
                near = queries @ block.T
                here = gone[(gone >= start + low) & (gone < start + low + len(block))] - start - low
                near[:, here] = -np.inf
                kept = np.argpartition(-near, min(count, near.shape[1]) - 1, axis=1)[:, :count]
                places = np.concatenate([places, kept + start + low], 1)
                values = np.concatenate([values, np.take_along_axis(near, kept, 1)], 1)
                order = np.argsort(-values, axis=1, kind="stable")[:, :count]
                places, values = (np.take_along_axis(x, order, 1) for x in (places, values))
            start += len(part)
        return np.where(np.isfinite(values), places, -1), values


class Cells:
    """faiss: all rows (`flat`), or those in the cells of k-means that are nearest to the query (`ivf`)."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def nearest(self, queries: np.ndarray, count: int, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine`; with cells nearly all of the nearest, not always all."""
        import faiss

        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(gone)) if len(gone) else None
        if isinstance(self.index, faiss.IndexIVF):
            chosen = faiss.SearchParametersIVF(sel=selector, nprobe=max(1, round(4 * self.index.nlist**0.5)))
        else:
            chosen = faiss.SearchParameters(sel=selector)
        values, places = self.index.search(np.ascontiguousarray(queries, np.float32), count, params=chosen)
        return places, values


def engine_of(name: str, parts: list[np.ndarray], folder: Path, keys: list[str]) -> Engine:
    """The engine called `name` over the rows of `parts`; `auto` is numpy for few images or without faiss, else `ivf`.

    Cells are kept in `folder` and added to when shards (`keys`) were added. Raises `FslError` when faiss is missing.
    """
    rows = sum(map(len, parts))
    if name == "auto":
        name = "ivf" if rows > LARGE and find_spec("faiss") is not None else "numpy"
    if name == "numpy":
        return Exact(parts)
    try:
        import faiss
    except ImportError as error:
        raise FslError(
            f"--engine {name}: needs the package faiss-cpu; pip install 'fewshot-cli[faiss]' (in a checkout: pip "
            "install '.[faiss]'), or take --engine numpy"
        ) from error
    if name == "flat":
        index = faiss.IndexFlatIP(parts[0].shape[1])
        for part in parts:
            for low in range(0, len(part), BLOCK):
                index.add(np.ascontiguousarray(part[low : low + BLOCK]))
        return Cells(index)
    return Cells(_kept_cells(faiss, parts, folder, keys))


def _kept_cells(faiss: Any, parts: list[np.ndarray], folder: Path, keys: list[str]) -> Any:
    """The cells in the folder with what was added since, or new ones: after a change of shards, or twofold growth."""
    path, dimension = folder / "cells.faiss", parts[0].shape[1]
    listed, rows = folder / "cells.txt", sum(map(len, parts))
    index, done = None, 0
    if path.is_file() and listed.is_file():
        known = listed.read_text("utf-8").split()
        if keys[: len(known)] == known:
            done = len(known)
            mapped = faiss.IO_FLAG_MMAP if done == len(keys) else 0  # what grows must be in memory
            index = faiss.read_index(str(path), mapped)
            if index.ntotal != sum(map(len, parts[:done])) or index.ntotal * 2 < rows:
                index, done = None, 0
    if index is None:
        cells = max(1, min(round(4 * rows**0.5), rows // 40))  # faiss wants 39 rows to train each
        quantiser = faiss.IndexFlatIP(dimension)
        index = faiss.IndexIVFFlat(quantiser, dimension, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = 1
        index.train(_sample(parts, 40 * index.nlist))
    for part in parts[done:]:
        for low in range(0, len(part), BLOCK):
            index.add(np.ascontiguousarray(part[low : low + BLOCK]))
    if done < len(parts):
        with atomic(path) as new:
            faiss.write_index(index, str(new))
        with atomic(listed) as new:
            new.write_text("\n".join(keys), "utf-8")
    return index


def _sample(parts: list[np.ndarray], count: int) -> np.ndarray:
    """Rows drawn from all parts, the same each time."""
    rows = sum(map(len, parts))
    picks = np.sort(np.random.Generator(np.random.Philox(1)).permutation(rows)[:count])
    out, start = [], 0
    for part in parts:
        mine = picks[(picks >= start) & (picks < start + len(part))] - start
        out.append(np.asarray(part[mine]))
        start += len(part)
    return np.ascontiguousarray(np.concatenate(out), np.float32)
