"""Labelled images sorted into folders: planned, moved or linked without replacing anything, and taken back."""

import csv
import os
import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import guarded, regular

How = Literal["move", "link"]
NONE_OF_THESE = "_none_of_these"  # where images without a label go
LIST = "sorted-{}.csv"


class Step(NamedTuple):
    """One image and where it goes."""

    source: Path
    target: Path


def plan(labelled: list[tuple[str, str | None]], folder: Path) -> list[Step]:
    """Where each image (its path and label) goes: `<folder>/<label>/<name>`, numbered where that is taken."""
    taken: set[Path] = set()
    steps = []
    for name, label in labelled:
        source = Path(name)
        place = folder / (NONE_OF_THESE if label is None else label.replace(os.sep, "_"))
        target, number = place / source.name, 1
        while target in taken or os.path.lexists(target):
            number += 1
            target = place / f"{source.stem}-{number}{source.suffix}"
        taken.add(target)
        steps.append(Step(source.absolute(), target))
    return steps


def carry_out(steps: list[Step], folder: Path, how: How) -> Path:
    """Move or link the images, and return the list that `undo` takes back, which is written before each step.

    Nothing is replaced: a file that has appeared in the meantime ends it. Raises `DataError`, after which the list
    holds what was done.
    """
    with guarded(folder):
        folder.mkdir(parents=True, exist_ok=True)
        number = next(n for n in range(1, 1_000_000) if not (folder / LIST.format(n)).exists())
        record = folder / LIST.format(number)
        with record.open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["how", "from", "to"])
            for source, target in steps:
                target.parent.mkdir(exist_ok=True)
                if os.path.lexists(target):
                    raise DataError(f"{target}: appeared in the meantime and is not replaced; run the command again")
                writer.writerow([how, source, target.absolute()])
                file.flush()
                if how == "link":
                    target.symlink_to(source)
                else:
                    shutil.move(source, target)
    return record


def undo(record: Path) -> int:
    """Take back what a list says, the last first; returns the number of images. Raises `DataError` where a file is not
    where the list says, or something else is in its old place; what was taken back until then stays so.
    """
    with guarded(record), regular(record).open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != ["how", "from", "to"] or any(len(row) != 3 for row in rows):
        raise DataError(f"{record}: is not a list of sorted images; give the sorted-N.csv of the folder they lie in")
    done = 0
    for how, source, target in map(tuple, reversed(rows[1:])):
        if not os.path.lexists(target):
            if os.path.lexists(source):  # written before the step, which then did not come
                continue
            raise DataError(f"{target}: is not there any more, so it cannot go back to {source}")
        with guarded(target):
            if how == "link":
                os.unlink(target)
            elif os.path.lexists(source):
                raise DataError(f"{source}: is taken by another file, which is not replaced; move that one away")
            else:
                shutil.move(target, source)
        done += 1
    return done
