"""The files below a folder, through links as far as they lead somewhere new."""

import os
from pathlib import Path

from fewshot_cli.data.kinds import litter
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.shown import shown

MAX_FILES, MAX_FOLDERS = 5_000_000, 500_000
NAMED = 5  # files that are named for each reason


def walk(path: Path) -> tuple[list[str], dict[str, list[str]]]:
    """The files below a folder by their names relative to it, sorted, and what was left out by reason.

    Links are followed, but not to a folder that holds them. Raises `DataError` for more than `MAX_FILES`.
    """
    names: list[str] = []
    skipped: dict[str, list[str]] = {}

    folders = 0

    def visit(folder: str, inside: str, above: frozenset[tuple[int, int]]) -> None:
        nonlocal folders
        folders += 1
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name = f"{inside}{entry.name}"
            if len(names) > MAX_FILES or folders > MAX_FOLDERS:
                raise DataError(f"{path}: holds more files or folders than are read, or links that multiply them")
            if reason := litter(entry.name):
                skipped.setdefault(reason, []).append(name)
                continue
            try:
                state = entry.stat()
            except OSError:
                reason = "links that lead nowhere" if entry.is_symlink() else "not to be read"
                skipped.setdefault(reason, []).append(name)
                continue
            if entry.is_dir():
                one = (state.st_dev, state.st_ino)
                if one in above:
                    skipped.setdefault("links to a folder that holds them", []).append(name)
                    continue
                try:
                    visit(entry.path, f"{name}/", above | {one})
                except PermissionError:
                    skipped.setdefault("not to be read", []).append(name)
            elif entry.is_file():
                names.append(name)
            else:
                skipped.setdefault("FIFOs, sockets or devices", []).append(name)

    top = os.stat(path)
    visit(str(path), "", frozenset({(top.st_dev, top.st_ino)}))
    return sorted(names), skipped


def told(skipped: dict[str, list[str]], where: str) -> str:
    """One line that names what was left out of `where`: how many files for which reason, and the first of them."""
    parts = []
    for reason, names in skipped.items():
        first = ", ".join(map(shown, names[:NAMED])) + (", …" if len(names) > NAMED else "")
        parts.append(f"{len(names)} {reason} ({first})")
    count = sum(map(len, skipped.values()))
    return f"note: {shown(where)}: left out {count} file{'s' * (count > 1)}: {'; '.join(parts)}"
