"""Two processes that want the same run folder, default folder, store or feature cache at the same time.

    python benchmarks/reliability/pairs.py [--tries 100]

A fault: a result that differs from that of one process alone, records of both in one file, no process that succeeds, a
traceback or an internal fault. Prints JSON.
"""

import json
import random
from pathlib import Path

from world import World, copied, run, spoken


class Pair:
    """A command that two or three processes run in one folder at once; all whose folder is free must succeed."""

    def __init__(self, here: World, words: tuple[object, ...], cached: bool, all_succeed: bool) -> None:
        self.here, self.words, self.cached, self.all_succeed = here, words, cached, all_succeed
        self.expected: object = None

    def __call__(self, rng: random.Random, place: Path) -> str | None:
        copied(self.here.folder / "data", place / "data")
        if not self.cached:
            for made in ("features", "glyphs"):
                for path in (place / "data").glob(f"{made}/*"):
                    path.unlink()
        if self.expected is None:
            copied(place, place.parent / "alone")
            done = self.here.children.run(*self.words, cwd=place.parent / "alone", check=True)
            self.expected = _accuracy(done.stdout)
        children = [self.here.children.start(*self.words, cwd=place) for _ in range(rng.randint(2, 3))]
        ended = [child.wait() for child in children]
        for done in ended:
            if (said := spoken(done)) is not None:
                return said
            if done.returncode == 0 and _accuracy(done.stdout) != self.expected:
                return f"{_accuracy(done.stdout)} in place of {self.expected}"
        well = sum(done.returncode == 0 for done in ended)
        if well < (len(ended) if self.all_succeed else 1):
            return f"{well} of {len(ended)} succeeded: {ended[-1].stderr.strip()[-200:]}"
        for records in place.rglob("episodes.jsonl"):
            numbers = [json.loads(line)["episode"] for line in records.read_text().splitlines()]
            if numbers != list(range(len(numbers))):
                return f"{records.name} holds episodes {numbers[:20]}"
        return None


def _accuracy(out: str) -> object:
    data = json.loads(out)
    return data.get("accuracy") or data.get("sha256") or data.get("splits")


def kinds(here: World) -> list[tuple[str, Pair]]:
    recipe = ("--recipe", here.tiny.recipe, "--data-root", "data")
    evaluation = (
        "eval",
        *recipe,
        "--weights",
        here.weights,
        "--format",
        "json",
        "--episodes",
        "40",
        "--batch",
        "4",
    )
    trained = ("pretrain", *recipe, "--set", "pretrain.epochs=2")
    return [
        ("one run folder", Pair(here, (*evaluation, "--run-dir", "r"), True, False)),
        ("default folders, cold cache", Pair(here, evaluation, False, True)),
        ("default folders, warm cache", Pair(here, evaluation, True, True)),
        ("one folder of training", Pair(here, (*trained, "--run-dir", "r"), True, False)),
        ("default folders of training", Pair(here, trained, True, True)),
    ]


if __name__ == "__main__":
    run(__doc__, 100, "two processes", kinds)
