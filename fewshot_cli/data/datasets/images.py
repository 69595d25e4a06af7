"""A user's own images: class folders, split folders of class folders, or a CSV of file,label[,split]."""

from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from fewshot_cli.config.schema import MAX_PIXELS
from fewshot_cli.contracts import DatasetBuilder, ImageSink
from fewshot_cli.data.archive import Source
from fewshot_cli.data.arrange import arrange
from fewshot_cli.data.class_splits import ClassSplits, assign, in_order
from fewshot_cli.data.listed import Table, from_csv
from fewshot_cli.data.user_images import images_of
from fewshot_cli.data.walk import told
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import guarded, regular


class ImagesOptions(ClassSplits):
    """Which folders are the classes, how large images may be, and how classes are divided when the source does not
    say.
    """

    class_level: int | None = Field(
        None, ge=1, le=9, description="where images lie in folders of folders: classes are the first (1), second (2), …"
    )
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="pixels of one image that may be held in memory")


class Images(DatasetBuilder[ImagesOptions]):
    """Your own images; classes are split by the source's train/val/test folders or column, a file, or a seed."""

    source = (
        "a folder (or archive) <class>/<image> or train|val|test/<class>/<image>, or a CSV "
        "with columns file,label[,split]"
    )

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write split by split, classes sorted by name."""
        path = sources[0]
        writer.info["upright"] = True  # a user's own images are rotated as the camera recorded
        writer.max_pixels = self.options.max_pixels
        if path.suffix.lower() in (".csv", ".tsv"):
            writer.where = f"{path.parent}/"
            self._write(from_csv(path), path, writer, lambda name: _content(path.parent / name))
            return
        writer.where = f"{path}/"
        with Source(path, writer.target.parent) as files:
            names, others = images_of(files)
            made = arrange(names, str(path), self.options.class_level)
            writer.skipped |= {**files.skipped, **others, **made.skipped}
            if writer.skipped:
                say(told(writer.skipped, str(path)))
            table = {cls: (found, made.splits.get(cls)) for cls, found in made.classes.items()}
            self._write(table, path, writer, files.read)

    def _write(self, table: Table, path: Path, writer: ImageSink, read: Callable[[str], bytes]) -> None:
        if not table:
            raise DataError(f"{path}: holds no images in class folders; --from takes {self.source}")
        classes = assign(self.options, table, path)
        for split, cls in in_order(classes):
            for name in table[cls][0]:
                writer.add(split, cls, read(name), name)


def _content(path: Path) -> bytes:
    with guarded(path):
        return regular(path).read_bytes()
