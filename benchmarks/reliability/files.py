"""Every kind of file that is written and read again, damaged between the two.

    python benchmarks/reliability/files.py [--tries 500]

Damage: one flipped bit, up to 64 KiB of zeros, truncation, zero length, two halves exchanged, the content twice, and
another file of the same kind. A fault: exit code 0 with another result than undamaged, a traceback or an internal
fault. A damaged file may be refused, or made anew. Prints JSON.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

from world import World, copied, images, run, spoken, tiny


def flipped(blob: bytes, rng: random.Random, other: bytes) -> bytes:
    at = rng.randrange(len(blob))
    return blob[:at] + bytes([blob[at] ^ (1 << rng.randrange(8))]) + blob[at + 1 :]


def zeros(blob: bytes, rng: random.Random, other: bytes) -> bytes:
    count = min(65536, max(1, len(blob) // 2))
    at = rng.randrange(len(blob) - count + 1)
    return blob[:at] + bytes(count) + blob[at + count :]


DAMAGE: dict[str, Callable[[bytes, random.Random, bytes], bytes]] = {
    "flipped bit": flipped,
    "zeros": zeros,
    "truncated": lambda blob, rng, other: blob[: rng.randrange(len(blob))],
    "empty": lambda blob, rng, other: b"",
    "halves exchanged": lambda blob, rng, other: blob[len(blob) // 2 :] + blob[: len(blob) // 2],
    "twice": lambda blob, rng, other: blob + blob,
    "another file": lambda blob, rng, other: other,
}


class Kind:
    """A file below a folder, a command that reads it there, and a folder of another run of the same kind."""

    def __init__(self, here: World, file: str, words: tuple[object, ...], folder: Path, other: Path) -> None:
        self.here, self.file, self.words, self.folder, self.other = here, file, words, folder, other
        self.expected: str | None = None

    def found(self, folder: Path) -> Path:
        return next(iter(sorted(folder.glob(self.file))))

    def result(self, folder: Path) -> tuple[str | None, str]:
        """What is wrong in any case, and the numbers that the command gives."""
        done = self.here.children.run(*self.words, cwd=folder)
        if done.returncode != 0:
            return spoken(done), ""
        return spoken(done), json.dumps(_numbers(json.loads(done.stdout)))

    def __call__(self, rng: random.Random, place: Path) -> str | None:
        if self.expected is None:
            self.expected = self.result(copied(self.folder, place / "whole"))[1]
            assert self.expected, f"{self.file}: the undamaged files are refused"
        name = rng.choice(sorted(DAMAGE))
        path = self.found(copied(self.folder, place / "work"))
        blob = DAMAGE[name](path.read_bytes(), rng, self.found(self.other).read_bytes())
        path.write_bytes(blob)
        wrong, numbers = self.result(place / "work")
        if wrong is not None:
            return f"{name}: {wrong}"
        return f"{name}: {numbers} in place of {self.expected}" if numbers not in ("", self.expected) else None


def _numbers(data: object) -> object:
    """What must not change silently: accuracies, intervals and hashes."""
    if isinstance(data, list):
        return [_numbers(one) for one in data]
    if not isinstance(data, dict):
        return data
    keep = ("accuracy", "ci95", "sha256", "records", "best", "difference", "episodes")
    return {key: _numbers(value) for key, value in data.items() if key in keep}


def kinds(here: World) -> list[tuple[str, Kind]]:
    """The files of stores, caches, weights, and of runs that are finished and that are not."""
    base, other = here.folder / "base", here.folder / "other"
    recipe = ("--recipe", here.tiny.recipe, "--data-root", "data")
    evaluation = ("eval", *recipe, "--weights", "w/weights.safetensors", "--format", "json")
    trained = ("pretrain", *recipe, *tiny.PRETRAINED, "--run-dir", "p")
    taught = ("finetune-sfc", *recipe, "--weights", "w/weights.safetensors", "--set", "head=sfc", "--run-dir", "f")
    rows = ("table", "deepemd.T2", "--dataset", "glyphs", "--rows", "EMD, equal", "--episodes", "20", "--run-dir", "t")
    rows = (*rows, "--data-root", here.folder / "glyphs", "--format", "json")
    for folder, seed in ((base, "1"), (other, "2")):
        images(folder / "mine", ["a", "b", "c"], 4, int(seed))
        copied(here.folder / "data", folder / "data")
        here.run(*trained[:-1], "w", "--seed", seed, cwd=folder)
        here.run(*evaluation, "--seed", seed, "--run-dir", "e", cwd=folder)
        here.run(*taught, "--support", "mine", cwd=folder)
        here.run(*rows, "--seed", seed, cwd=folder)
        for verb, stop in (
            (trained, "state.pt:2"),
            ((*evaluation, "--batch", "2", "--run-dir", "h"), "episodes.jsonl:2"),
        ):
            here.children.run(*verb, "--seed", seed, cwd=folder, environment={"FSL_STOP_AT": stop})
    shuffled = other / "data" / "tiny" / "images.bin"
    shuffled.write_bytes(shuffled.read_bytes()[::-1])
    resumed = (*trained, "--seed", "1", "--resume")
    half = (*evaluation, "--seed", "1", "--batch", "2", "--run-dir", "h", "--resume")
    done = (*evaluation, "--seed", "1", "--run-dir", "e", "--resume")
    fresh = (*evaluation, "--seed", "1", "--run-dir", "new")
    scored = (*evaluation, "--set", "head=sfc", "--classifier", "f/classifier.safetensors", "--query", "mine")
    scored = (*scored, "--run-dir", "new")
    read: dict[str, tuple[object, ...]] = {
        "data/tiny/images.bin": fresh,
        "data/tiny/index.json": fresh,
        "data/features/*.safetensors": fresh,
        "w/weights.safetensors": fresh,
        "w/weights.safetensors.json": fresh,
        "p/state.pt": resumed,
        "p/log.jsonl": resumed,
        "p/times.jsonl": resumed,
        "p/config.json": resumed,
        "h/episodes.jsonl": half,
        "h/config.json": half,
        "f/classifier.safetensors": scored,
        "f/classifier.safetensors.json": scored,
        "t/rows.jsonl": (*rows, "--seed", "1", "--resume"),
        "e/summary.json": done,
        "e/seconds.json": done,
        "e/config.json": done,
    }
    return [(file, Kind(here, file, words, base, other)) for file, words in read.items()]


if __name__ == "__main__":
    run(__doc__, 500, "damaged files", kinds)
