"""What a sweep of 24 cells from cached features costs beyond the cells' matching.

    python benchmarks/sweep.py [--recipe glyphs_5w1s] [--episodes 200] [--data-root FOLDER]

Eight settings of heads by three shots. A first sweep of one episode fills the cache; then the verb is timed twice in
one process, from its call to its table, and its ratio to the sum of the cells' matching times is to be 1.2 at most.
Prints both, with the load of the machine.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from json import loads

GRID = (
    "head=emd,{name: emd, weights: equal},{name: emd, pyramid: [2, 1]},{name: emd, norm: cosine},fusion,knn,"
    "full_connections,prototype",
    "episode.shot=1,2,5",
)


def swept(recipe: str, episodes: int, data_root: str, folder: str) -> tuple[float, list[dict]]:
    """Seconds of the verb, and its records."""
    from fewshot_cli.cli import app

    words = ["sweep", "--recipe", recipe, "--episodes", str(episodes), "--data-root", data_root, "--run-dir", folder]
    words += ["--format", "json", *(word for text in GRID for word in ("--grid", text))]
    out, begin = StringIO(), time.perf_counter()
    with redirect_stdout(out):
        app.app(args=words, standalone_mode=False)
    return time.perf_counter() - begin, loads(out.getvalue())["records"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="glyphs_5w1s")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--data-root", default=os.environ.get("FSL_DATA_ROOT", ""))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.data_root or f"{folder}/data"
        swept(given.recipe, 1, root, f"{folder}/warm")
        for number in range(2):
            seconds, records = swept(given.recipe, given.episodes, root, f"{folder}/{number}")
            matching = sum(r["seconds"]["matching"] for r in records)
            print(
                f"{given.recipe}, {len(records)} cells of {given.episodes} episodes: {seconds:.2f} s, "
                f"matching {matching:.2f} s, ratio {seconds / matching:.3f}; load {os.getloadavg()[0]:.1f} on "
                f"{os.cpu_count()} cores"
            )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
