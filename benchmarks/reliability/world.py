"""What the campaigns share: the tests' small dataset and trained runs, commands as forks, and one JSON report."""

import argparse
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import tiny  # noqa: E402
from children import Children  # noqa: E402
from spoiled import images  # noqa: E402, F401

APART = {
    "seconds.json",
    "times.jsonl",
}  # what differs between equal runs: wall-clock times
Trial = Callable[[random.Random, Path], str | None]


class World:
    """A dataset, its recipe and pre-trained weights in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.children = folder, Children()
        self.tiny = tiny.make(folder)
        self.run("pretrain", *self.words, "--run-dir", folder / "pretrained", *tiny.PRETRAINED)
        self.weights = folder / "pretrained" / "weights.safetensors"

    @property
    def words(self) -> tuple[str, ...]:
        return self.tiny.words

    def run(self, *words: object, cwd: Path | None = None) -> str:
        """What a command that must succeed prints."""
        return self.children.run(*words, cwd=cwd or self.folder, check=True).stdout


@contextmanager
def world() -> Iterator[World]:
    with TemporaryDirectory() as folder:
        made = World(Path(folder))
        try:
            yield made
        finally:
            made.children.close()


def content(folder: Path) -> dict[str, bytes]:
    """The files below a folder that must be equal for equal runs."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in APART)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def spoken(done: object) -> str | None:
    """What is wrong with how a command ended that need not have succeeded: a traceback, an internal fault, silence."""
    code, err = done.returncode, done.stderr
    if "Traceback" in err or "internal fault" in err:
        return f"exit {code}: {err.strip()[-300:]}"
    if code not in (0, 1, 2, 3, 4, 5, 130):
        return f"exit {code} is not documented"
    if code != 0 and not err.strip():
        return f"exit {code} without a word"
    return None


def campaign(
    trials: Iterator[tuple[str, Trial]] | list[tuple[str, Trial]], tries: int, seed: int, folder: Path
) -> dict:
    """Run so many trials in turn; a trial returns what is wrong, or None. Its name and random numbers repeat it."""
    kinds, faults = list(trials), []
    for number in range(tries):
        name, trial = kinds[number % len(kinds)]
        place = folder / f"trial{number}"
        place.mkdir(parents=True)
        if (fault := trial(random.Random(f"{seed}/{number}"), place)) is not None:
            faults.append({"try": number, "kind": name, "fault": fault})
        shutil.rmtree(place, ignore_errors=True)
    return {"tries": tries, "kinds": [name for name, _ in kinds], "faults": faults}


def run(description: str, tries: int, name: str, kinds: Callable[[World], list[tuple[str, Trial]]]) -> None:
    """A campaign in a world of its own, from its command line to its report."""
    given = options(description, tries)
    with world() as here:
        (here.folder / "trials").mkdir()
        report(name, campaign(kinds(here), given.tries, given.seed, here.folder / "trials"))


def differing(now: dict[str, bytes], whole: dict[str, bytes]) -> str:
    """The names of files that are not the same in both, empty without one."""
    return ", ".join(sorted(name for name in {*now, *whole} if now.get(name) != whole.get(name)))[:300]


def options(description: str, tries: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tries", type=int, default=tries)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def report(name: str, result: dict) -> None:
    """Print the result; a fault ends the process with 1."""
    print(json.dumps({"campaign": name, **result}, indent=1))
    sys.exit(1 if result["faults"] else 0)
