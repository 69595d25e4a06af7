"""A disk that refuses to take more at a random byte, in every verb that writes; then the disk has room again.

    python benchmarks/reliability/disk.py [--tries 150]

No file may grow beyond a random size, which the system answers as it does a full disk. A fault: an internal fault or a
traceback, another result than with room, or a run that does not continue to the bytes of an unbroken one. Prints JSON.
"""

import random
from pathlib import Path

from kills import Verb, verbs
from world import World, content, differing, run, spoken


class Full:
    """A verb whose files may not grow beyond a size, and once more without the limit."""

    def __init__(self, verb: Verb) -> None:
        self.verb = verb

    def __call__(self, rng: random.Random, folder: Path) -> str | None:
        verb = self.verb
        whole = verb.unbroken(folder)
        largest = max(map(len, whole.values()))
        size = int(largest ** rng.uniform(0.2, 1.0))
        done = verb.here.children.run(*verb.words, cwd=folder, file_size=size)
        if (said := spoken(done)) is not None:
            return f"{size} bytes: {said}"
        if done.returncode == 0:
            return f"{size} bytes: exit 0 with other {names}" if (names := differing(content(folder), whole)) else None
        wrong = verb.unfinished(folder)
        return f"{size} bytes, with room again: {wrong}" if wrong else None


def kinds(here: World) -> list[tuple[str, Full]]:
    return [(name, Full(verb)) for name, verb in verbs(here)]


if __name__ == "__main__":
    run(__doc__, 150, "full disk", kinds)
