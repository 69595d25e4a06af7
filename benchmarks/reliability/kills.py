"""Every verb that writes, killed at a random moment or told to stop, then continued: it ends with the same bytes.

    python benchmarks/reliability/kills.py [--tries 150]

SIGKILL in two of three tries, else SIGTERM, SIGINT or SIGHUP. A fault: other bytes than an unbroken run's (wall-clock
times, which stand in files of their own, excepted), a hidden file left behind, an internal fault, or an end without a
word. Prints JSON.
"""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from world import World, campaign, content, options, report, spoken, tiny, world

SIGNALS = [signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


class Verb:
    """A command whose work lies in `out`, below the folder that it is run in; `again` is how it is continued."""

    def __init__(self, here: World, words: tuple[object, ...], again: tuple[str, ...]) -> None:
        self.here, self.words, self.again = here, words, again
        self.whole: dict[str, bytes] = {}
        self.seconds = 0.0

    def unbroken(self, folder: Path) -> None:
        begin = time.monotonic()
        self.here.run(*self.words, cwd=folder)
        self.seconds, self.whole = time.monotonic() - begin, content(folder)

    def __call__(self, rng: random.Random, folder: Path) -> str | None:
        if not self.whole:
            (first := folder.parent / f"whole{id(self)}").mkdir()
            self.unbroken(first)
        number, words = rng.choice(SIGNALS), self.words
        for _ in range(rng.randint(1, 2)):
            child = self.here.children.start(*words, cwd=folder)
            time.sleep(rng.uniform(0, 1.1 * self.seconds))
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)
            done = child.wait()
            if number != signal.SIGKILL and (said := spoken(done)) is not None:
                return f"{number.name}: {said}"
            if any(folder.rglob("config.json")):
                words = (*self.words, *self.again)
        done = self.here.children.run(*words, cwd=folder)
        if done.returncode != 0:
            return f"{number.name}, then {done.returncode}: {done.stderr.strip()[-300:]}"
        now = content(folder)
        if now == self.whole:
            return None
        names = sorted(name for name in {*now, *self.whole} if now.get(name) != self.whole.get(name))
        return f"{number.name}: other bytes in {', '.join(names)[:300]}"


def verbs(here: World) -> list[tuple[str, Verb]]:
    words, weights, resume = here.words, ("--weights", here.weights), ("--resume",)
    into = ("--run-dir", "out")
    three, sfc = ("--set", "metatrain.epochs=3"), ("--set", "head=sfc")
    table = ("table", "deepemd.T2", "--dataset", "glyphs", "--data-root", here.folder / "data")
    images = here.folder / "pictures"
    for cls in range(8):
        (images / f"c{cls}").mkdir(parents=True)
        for i in range(30):
            _picture(images / f"c{cls}" / f"{i}.png", 100 * cls + i)
    return [
        ("pretrain", Verb(here, ("pretrain", *words, *into, *tiny.PRETRAINED), resume)),
        ("metatrain", Verb(here, ("metatrain", *words, *weights, *three, *into), resume)),
        ("eval", Verb(here, ("eval", *words, *weights, "--episodes", "300", "--batch", "8", *into), resume)),
        ("prepare", Verb(here, ("prepare", "images", "--name", "mine", "--from", images, "--data-root", "out"), ())),
        ("table", Verb(here, (*table, "--rows", "EMD, equal", "--episodes", "60", *into), resume)),
        ("finetune-sfc", Verb(here, ("finetune-sfc", *words, *weights, *sfc, "--support", images, *into), resume)),
    ]


def _picture(path: Path, seed: int) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)


def main() -> None:
    given = options(__doc__, 150)
    with world() as here:
        (here.folder / "kills").mkdir()
        report("kills", campaign(verbs(here), given.tries, given.seed, here.folder / "kills"))


if __name__ == "__main__":
    main()
