"""Images labelled as they are put into a folder."""

import time
from collections.abc import Iterator
from pathlib import Path

from fewshot_cli.data.user_images import LooseImages, all_bad_of
from fewshot_cli.errors import DataError
from fewshot_cli.predict.classify import Classification, Row
from fewshot_cli.runtime.console import say

EVERY = 0.5  # seconds between looks


def labels_as_they_come(made: Classification, paths: list[Path]) -> Iterator[Row]:
    """A record for each image in the folders, then for each that is added or changed; it does not end by itself.

    A file is taken once it has the same size and time at two looks, so that one that is still being copied waits. What
    cannot be used is told once and left out. Raises `DataError` for a path that is no folder.
    """
    for path in paths:
        if not path.is_dir():
            raise DataError(f"{path}: is no folder to watch")
    with all_bad_of(made.support):
        made.learn()
    done: dict[Path, tuple[int, int]] = {}
    before: dict[Path, tuple[int, int]] = {}
    say(f"watching {', '.join(map(str, paths))}; Ctrl-C ends it")
    while True:
        now = {path: seen for folder in paths for path, seen in _files(folder)}
        for path, seen in now.items():
            if done.get(path) != seen and before.get(path) == seen:
                done[path] = seen
                try:
                    yield from made.rows(LooseImages([path], made.recipe.image, made.taking))
                except DataError as error:
                    say(f"note: {error}")
        before = now
        time.sleep(EVERY)


def _files(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Files of a folder and below, not hidden ones, with their size and time of change."""
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file() and not path.name.startswith("."):
                state = path.stat()
                yield path, (state.st_size, state.st_mtime_ns)
        except OSError:  # gone in the meantime
            continue
