"""How searching grows with the gallery: time per query, memory, and Recall@10 against brute force.

    python benchmarks/gallery.py --images 10000 100000 1000000

Features are invented: directions of 512 numbers about centres of their own, ten for each, which is what the images of a
class look like. Each size and engine runs in a process of its own, whose memory is the peak beyond the features that it
maps from disk. Prints one JSON object a line.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from fewshot_cli.predict.nearest import engine_of

DIMENSION, EACH, SHARD = 512, 10, 100_000


def invent(count: int, folder: Path) -> list[Path]:
    """Shards of directions on disk."""
    rng, paths = np.random.default_rng(0), []
    centres = rng.standard_normal((count // EACH, DIMENSION), np.float32)
    for start in range(0, count, SHARD):
        rows = min(SHARD, count - start)
        part = centres[rng.integers(len(centres), size=rows)] + rng.standard_normal((rows, DIMENSION), np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        paths.append(folder / f"{start}.npy")
        np.save(paths[-1], part)
    return paths


def search(name: str, paths: list[Path], folder: Path, queries: np.ndarray, exact: np.ndarray | None) -> dict:
    """One engine: seconds to open it the first time and again, and per query one by one; with the places it finds."""
    parts = [np.load(path, mmap_mode="r") for path in paths]
    keys, gone = [path.stem for path in paths], np.empty(0, np.int64)
    seconds = []
    for _ in range(2):
        begin = perf_counter()
        engine = engine_of(name, parts, folder, keys)
        seconds.append(perf_counter() - begin)
    engine.nearest(queries[:1], 10, gone)
    begin = perf_counter()
    found = np.concatenate([engine.nearest(query[None], 10, gone)[0] for query in queries])
    took = (perf_counter() - begin) / len(queries)
    truth = found if exact is None else exact
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
    return {
        "milliseconds": round(1000 * took, 2),
        "built": round(seconds[0], 1),
        "opened_again": round(seconds[1], 2),
        "recall@10": round(100 * float(recall), 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "found": found,
    }


def main() -> None:
    """Every size with every engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=50)
    args = parser.parse_args()
    for count in args.images:
        with tempfile.TemporaryDirectory() as work:
            paths = invent(count, Path(work))
            rng = np.random.default_rng(1)
            stored = np.load(paths[0], mmap_mode="r")
            queries = stored[rng.integers(len(stored), size=args.queries)]
            queries = queries + 0.7 / DIMENSION**0.5 * rng.standard_normal(queries.shape, np.float32)
            queries = np.ascontiguousarray(queries / np.linalg.norm(queries, axis=1, keepdims=True), np.float32)
            exact = None
            for name in ("numpy", "flat", "ivf"):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    result = pool.apply(search, (name, paths, Path(work), queries, exact))
                found = result.pop("found")
                exact = found if name == "numpy" else exact
                print(json.dumps({"images": count, "engine": name, **result}), flush=True)


if __name__ == "__main__":
    main()
