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

from world import World, content, differing, images, run, spoken, tiny

SIGNALS = [signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


class Verb:
    """A command whose work lies in `out`, below the folder that it is run in; `again` is how it is continued."""

    def __init__(self, here: World, words: tuple[object, ...], again: tuple[str, ...]) -> None:
        self.here, self.words, self.again = here, words, again
        self.whole: dict[str, bytes] = {}
        self.seconds = 0.0

    def unbroken(self, beside: Path) -> dict[str, bytes]:
        """What an unbroken run leaves, made beside the first trial's folder."""
        if not self.whole:
            (folder := beside.parent / f"whole{id(self)}").mkdir()
            begin = time.monotonic()
            self.here.run(*self.words, cwd=folder)
            self.seconds, self.whole = time.monotonic() - begin, content(folder)
        return self.whole

    def goes_on(self, folder: Path) -> tuple[object, ...]:
        """The command that continues what was begun in a folder, or begins."""
        return (*self.words, *self.again) if any(folder.rglob("config.json")) else self.words

    def unfinished(self, folder: Path) -> str | None:
        """What is wrong once the command has gone on: it must succeed, and leave the bytes of an unbroken run."""
        done = self.here.children.run(*self.goes_on(folder), cwd=folder)
        if done.returncode != 0:
            return f"then {done.returncode}: {done.stderr.strip()[-300:]}"
        names = differing(content(folder), self.whole)
        return f"other bytes in {names}" if names else None

    def __call__(self, rng: random.Random, folder: Path) -> str | None:
        self.unbroken(folder)
        number = rng.choice(SIGNALS)
        for _ in range(rng.randint(1, 2)):
            child = self.here.children.start(*self.goes_on(folder), cwd=folder)
            time.sleep(rng.uniform(0, 1.1 * self.seconds))
            with suppress(ProcessLookupError):
                os.kill(child.pid, number)
            done = child.wait()
            if number != signal.SIGKILL and (said := spoken(done)) is not None:
                return f"{number.name}: {said}"
        wrong = self.unfinished(folder)
        return f"{number.name}: {wrong}" if wrong else None


def verbs(here: World) -> list[tuple[str, Verb]]:
    words, weights, resume = here.words, ("--weights", here.weights), ("--resume",)
    into = ("--run-dir", "out")
    three, sfc = ("--set", "metatrain.epochs=3"), ("--set", "head=sfc")
    table = ("table", "deepemd.T2", "--dataset", "glyphs", "--data-root", here.folder / "data")
    folder = images(here.folder / "images", [f"c{cls}" for cls in range(8)], 30)
    return [
        ("pretrain", Verb(here, ("pretrain", *words, *into, *tiny.PRETRAINED), resume)),
        ("metatrain", Verb(here, ("metatrain", *words, *weights, *three, *into), resume)),
        ("eval", Verb(here, ("eval", *words, *weights, "--episodes", "300", "--batch", "8", *into), resume)),
        ("prepare", Verb(here, ("prepare", "images", "--name", "mine", "--from", folder, "--data-root", "out"), ())),
        ("table", Verb(here, (*table, "--rows", "EMD, equal", "--episodes", "60", *into), resume)),
        ("finetune-sfc", Verb(here, ("finetune-sfc", *words, *weights, *sfc, "--support", folder, *into), resume)),
    ]


if __name__ == "__main__":
    run(__doc__, 150, "kills", verbs)
