"""The nearest of many directions: by NumPy, or by faiss where it is installed (Douze et al. 2024)."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fewshot_cli.errors import FslError
from fewshot_cli.runtime.files import atomic

BLOCK = 65536  # rows that are compared at once
LARGE = 50_000  # images above which `auto` takes cells
ENGINES = ("auto", "numpy", "flat", "ivf")
TRIED, FOUND, ENOUGH = 64, 10, 0.95  # as many cells are looked into as find this share of the nearest of rows tried
NONE: np.ndarray = np.empty(0, np.int64)


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
    """faiss: all rows (`flat`), or those in the `probes` cells of k-means that are nearest to the query (`ivf`)."""

    def __init__(self, index: Any, probes: int = 0) -> None:
        self.index, self.probes = index, probes

    def nearest(self, queries: np.ndarray, count: int, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Engine`; with cells nearly all of the nearest, not always all."""
        import faiss

        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(gone)) if len(gone) else None
        if isinstance(self.index, faiss.IndexIVF):
            chosen = faiss.SearchParametersIVF(sel=selector, nprobe=self.probes)
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
    return _kept_cells(faiss, parts, folder, keys)


def _kept_cells(faiss: Any, parts: list[np.ndarray], folder: Path, keys: list[str]) -> Cells:
    """The cells in the folder with what was added since, or new ones: after a change of shards, or twofold growth."""
    path, dimension = folder / "cells.faiss", parts[0].shape[1]
    described, rows = folder / "cells.json", sum(map(len, parts))
    index, done, probes = None, 0, 0
    if path.is_file() and described.is_file():
        kept = json.loads(described.read_text("utf-8"))
        known, probes = kept["shards"], kept["probes"]
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
        probes = _probes(index, parts)
        with atomic(path) as new:
            faiss.write_index(index, str(new))
        with atomic(described) as new:
            new.write_text(json.dumps({"shards": keys, "probes": probes}), "utf-8")
    return Cells(index, probes)


def _probes(index: Any, parts: list[np.ndarray]) -> int:
    """As many cells as find `ENOUGH` of the `FOUND` rows nearest to some of the gallery's own, themselves left out.

    How many that are depends on the features: those of few kinds of images lie in few cells.
    """
    tried = _sample(parts, TRIED)
    wanted = Exact(parts).nearest(tried, FOUND + 1, NONE)[0][:, 1:].tolist()
    probes = 1
    while probes < index.nlist:
        found = Cells(index, probes).nearest(tried, FOUND + 1, NONE)[0].tolist()
        if sum(len({*a} & {*b}) for a, b in zip(wanted, found, strict=True)) >= ENOUGH * sum(map(len, wanted)):
            break
        probes *= 2
    return min(probes, index.nlist)


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
