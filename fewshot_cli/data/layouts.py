"""What several dataset builders share: published class splits, class folders, archives in a folder, and boxes."""

import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from fewshot_cli.contracts import ImageSink
from fewshot_cli.data.archive import Source
from fewshot_cli.data.arrange import without_masks
from fewshot_cli.data.decode import UNREADABLE
from fewshot_cli.data.kinds import formats, is_image
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import progress

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are just outside."""

Boxes = dict[str, dict[str, Box | None]]
"""Class → name of an image → its box."""

Sources = dict[str, Source]
"""File name → the folder or archive to read it from."""


def split_file(name: str) -> dict[str, Any]:
    """Content of the shipped `splits/<name>.json`: the classes of train, val and test."""
    return json.loads((Path(__file__).parent / "splits" / f"{name}.json").read_text("utf-8"))


def class_split(name: str) -> dict[str, list[str]]:
    """The published class split `splits/<name>.json`: names of the train, val and test classes."""
    return {split: list(classes) for split, classes in split_file(name).items()}


def classes_of(name: str) -> list[str]:
    """All classes of a published class split, in its order."""
    return [cls for classes in class_split(name).values() for cls in classes]


def by_class_folder(names: Iterable[str]) -> dict[str, list[str]]:
    """Group image files by the folder that holds them, without masks beside them: class name → sorted member names."""
    groups: dict[str, list[str]] = defaultdict(list)
    folders = {name: parts for name in names if is_image(name) and (parts := PurePosixPath(name).parts[:-1])}
    for name in without_masks(folders)[0]:
        groups[folders[name][-1]].append(name)
    return {cls: sorted(files) for cls, files in sorted(groups.items())}


def lone_archive(path: Path) -> Path:
    """The archive of a folder that holds just one and no folders, else the path itself."""
    if path.is_dir() and not any(p.is_dir() for p in path.iterdir()):
        archives = [p for p in path.iterdir() if p.name.lower().endswith(ARCHIVE_SUFFIXES)]
        if len(archives) == 1:
            return archives[0]
    return path


@contextmanager
def open_sources(paths: list[Path], archives: dict[str, str], scratch: Path) -> Iterator[Sources]:
    """Every file of `--from`, by name, also those inside archives that lie in a folder.

    `archives` maps file names of these archives to the folder that each unpacks to; an archive whose folder is there
    too is not opened.
    """
    with ExitStack() as stack:
        sources: Sources = {}
        for path in paths:
            if (archive := lone_archive(path)).name not in archives:
                path = archive
            files = stack.enter_context(Source(path, scratch))
            sources |= dict.fromkeys(files.names, files)
            folders = {part for name in files.names for part in PurePosixPath(name).parts[:-1]}
            for name in files.names if path.is_dir() else []:
                folder = archives.get(PurePosixPath(name).name)
                if folder and folder not in folders:
                    inner = stack.enter_context(Source(path / name, scratch))
                    sources |= dict.fromkeys(inner.names, inner)
        yield sources


def folder_and_file(name: str) -> str:
    """`<folder>/<file>` of a longer path."""
    return "/".join(PurePosixPath(name).parts[-2:])


def located(path: Path, sources: Sources, listed: Boxes) -> Boxes:
    """Images that a dataset lists as `<folder>/<file>`, under the names they have in the source.

    Classes that are absent are left out. Raises `DataError` for a class of which some images are there and some are
    not.
    """
    by_tail = {folder_and_file(name): name for name in sources}
    out = {}
    for cls, images in listed.items():
        missing = [key for key in images if key not in by_tail]
        if missing and len(missing) < len(images):
            raise DataError(
                f"{path}: lacks {len(missing):,} of the {len(images):,} listed images of class {cls} "
                f"(first {missing[0]}); get it whole"
            )
        if not missing:
            out[cls] = {by_tail[key]: box for key, box in images.items()}
    return out


def write_classes(split: str, sources: Sources, images: Boxes, titles: Mapping[str, str], writer: ImageSink) -> int:
    """Write the classes present, in the order of the published split, images by file name; returns how many images.

    `images` has the classes as the published split names them, `titles` what the store calls them, where that
    differs.
    """
    order = [
        (part, cls, name)
        for part, classes in class_split(split).items()
        for cls in classes
        for name in sorted(images.get(cls, ()), key=lambda name: (folder_and_file(name), name))
    ]
    with progress(split, len(order)) as bar:
        for done, (part, cls, name) in enumerate(order, 1):
            data, box = sources[name].read(name), images[cls][name]
            writer.add(part, titles.get(cls, cls), data, folder_and_file(name), box and _within(data, box))
            bar.update(done)
    return len(order)


def _within(data: bytes, box: Box) -> Box | None:
    """The part of a box that lies in the image: some public boxes reach beyond it. None where nothing remains."""
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            width, height = image.size
    except UNREADABLE:
        return None  # the writer says what is wrong with the image
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    return (left, top, right, bottom) if left < right and top < bottom else None
