"""What the annotated fine-grained datasets share: archives that lie in a folder, lists of pictures, and boxes."""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from PIL import Image

from fewshot_cli.data.archive import Source
from fewshot_cli.data.imagenet import holder
from fewshot_cli.data.layouts import class_split
from fewshot_cli.data.store import FORMATS, StoreWriter
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import progress

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels; right and bottom are just outside


@contextmanager
def opened(paths: list[Path], archives: dict[str, str], scratch: Path) -> Iterator[dict[str, Source]]:
    """Every file of `--from`, folder or archive, by name, with what reads it; also files of archives that lie in a
    folder.

    `archives` maps the names of these to the folder they unpack to: where that is, they are not opened.
    """
    with ExitStack() as stack:
        at: dict[str, Source] = {}
        for path in paths:
            if (held := holder(path)).name not in archives:
                path = held
            files = stack.enter_context(Source(path, scratch))
            at |= dict.fromkeys(files.names, files)
            folders = {part for name in files.names for part in PurePosixPath(name).parts[:-1]}
            for name in files.names if path.is_dir() else []:
                folder = archives.get(PurePosixPath(name).name)
                if folder and folder not in folders:
                    inner = stack.enter_context(Source(path / name, scratch))
                    at |= dict.fromkeys(inner.names, inner)
        yield at


def tail(name: str) -> str:
    """`<folder>/<file>` of a longer path."""
    return "/".join(PurePosixPath(name).parts[-2:])


def located(
    path: Path, at: dict[str, Source], listed: dict[str, dict[str, Box | None]]
) -> dict[str, dict[str, Box | None]]:
    """For pictures listed by class as `<folder>/<file>`, the names they have in the source; absent classes are left
    out.

    Raises `DataError` for a class of which some pictures are there and some are not.
    """
    known = {tail(name): name for name in at}
    out = {}
    for cls, pictures in listed.items():
        missing = [key for key in pictures if key not in known]
        if missing and len(missing) < len(pictures):
            raise DataError(
                f"{path}: lacks {len(missing):,} of the {len(pictures):,} listed pictures of class {cls} "
                f"(first {missing[0]}); get it whole"
            )
        if not missing:
            out[cls] = {known[key]: box for key, box in pictures.items()}
    return out


def pack(
    title: str,
    at: dict[str, Source],
    groups: dict[str, dict[str, Box | None]],
    names: dict[str, str],
    writer: StoreWriter,
) -> int:
    """Write the classes present, in the order of the split `title`, pictures by file name; returns how many pictures.

    `groups` are names of pictures and their boxes by the split's classes, `names` what the store calls these.
    """
    wanted = [
        (split, cls, name)
        for split, classes in class_split(title).items()
        for cls in classes
        for name in sorted(groups.get(cls, ()), key=lambda name: (tail(name), name))
    ]
    with progress(title, len(wanted)) as bar:
        for done, (split, cls, name) in enumerate(wanted, 1):
            data, box = at[name].read(name), groups[cls][name]
            writer.add(split, names.get(cls, cls), data, tail(name), box and _within(data, box))
            bar.update(done)
    return len(wanted)


def _within(data: bytes, box: Box) -> Box | None:
    """The part of a box that lies in the picture: some public boxes reach beyond it. None where nothing remains."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # the writer says what is wrong with the picture
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    return (left, top, right, bottom) if left < right and top < bottom else None
