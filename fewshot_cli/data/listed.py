"""A CSV that lists images with their labels: `file,label[,split]`."""

import codecs
import csv
import io
import posixpath
from collections.abc import Iterator
from pathlib import Path

from fewshot_cli.data.arrange import SPLIT_FOLDERS, plain
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import guarded, regular

Table = dict[str, tuple[list[str], str | None]]
"""Class → names of its images, and the split that the source puts it into, if any."""

_COLUMNS = {
    "file": ("file", "filename", "file_name", "path", "image"),
    "label": ("label", "class", "class_name"),
    "split": ("split", "set"),
}


def from_csv(path: Path) -> Table:
    """The classes of a CSV's images, which it names relative to its folder.

    Fields are separated by commas, semicolons or tabs; spaces around them do not count. Raises `DataError`, with the
    number of the line, for what is no such CSV, a file that does not exist or has two labels, and a class in two
    splits.
    """
    table: Table = {}
    label_of: dict[str, str] = {}
    seen: set[str] = set()
    for line, row in _rows(path):
        name, cls = row.get("file", ""), row.get("label", "")
        if not name or not cls:
            raise DataError(f"{path}:{line}: file or label is empty; give both, or remove the line")
        split = split_named(row["split"], f"{path}:{line}") if plain(row.get("split", "")) else None
        name = _there(path, line, name)
        if label_of.setdefault(name, cls) != cls:
            raise DataError(f"{path}:{line}: {name} has the label {cls}, and {label_of[name]} before; leave one out")
        names = names_of(table, cls, split, f"{path}:{line}")
        if name not in seen:  # a row for each box in an image is common
            names.append(name)
        seen.add(name)
    return table


def split_named(text: str, where: str) -> str:
    """The split that a word means. Raises `DataError`, beginning with `where`, for another word."""
    if (word := plain(text)) not in SPLIT_FOLDERS:
        raise DataError(f"{where}: split {text!r} is none of train, val, test")
    return SPLIT_FOLDERS[word]


def names_of(table: Table, cls: str, split: str | None, where: str) -> list[str]:
    """The names of a class's images in the table, which it enters with its split. Raises `DataError`, beginning with
    `where`, for a class that is in the table with another split.
    """
    names, before = table.setdefault(cls, ([], split))
    if before != split:
        raise DataError(f"{where}: class {cls} is in two splits; in few-shot learning a class belongs to one")
    return names


def _there(path: Path, line: int, name: str) -> str:
    """The file's name below the CSV's folder, as it is or with the separators of Windows."""
    for one in (name, name.replace("\\", "/")):
        if Path(one).is_absolute() or ".." in Path(one).parts:
            raise DataError(f"{path}:{line}: {name} leaves the CSV's folder; name files relative to it")
        with guarded(f"{path}:{line}"):
            if (path.parent / one).is_file():
                return posixpath.normpath(one)
    raise DataError(f"{path}:{line}: {name} is no file in {path.parent}; name files relative to the CSV")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The CSV's rows with their line numbers, by our names of the columns."""
    with guarded(path):
        data = regular(path).read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: is not UTF-8 text ({error.reason}); save the CSV as UTF-8") from error
    if not text.strip():
        raise DataError(f"{path}:1: is empty; give it the columns file,label (and optionally split)")
    for separator in ",;\t":
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            titles = [title.strip().lower() for title in next(reader)]
            if titles[0].startswith("sep="):  # Excel's own note of what separates the fields
                titles = [title.strip().lower() for title in next(reader, [])]
            known = {column: [name for name in names if name in titles] for column, names in _COLUMNS.items()}
            places = {column: titles.index(names[0]) for column, names in known.items() if names}
            if {"file", "label"} <= set(places):
                for row in reader:
                    if any(field.strip() for field in row):
                        fields = {c: row[i].strip() for c, i in places.items() if i < len(row)}
                        yield reader.line_num, fields
                return
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: cannot be read as CSV ({error}); mend that line") from error
    raise DataError(f"{path}:1: needs a header with the columns file,label (and optionally split)")
