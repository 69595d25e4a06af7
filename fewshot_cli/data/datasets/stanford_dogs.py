"""Stanford Dogs (Khosla et al. 2011) by the 70/20/30 class split of the fine-grained few-shot papers."""

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.imagenet import COLLECTIONS
from fewshot_cli.data.layouts import (
    Box,
    Boxes,
    Sources,
    by_class_folder,
    classes_of,
    open_sources,
    write_classes,
)
from fewshot_cli.errors import DataError

MAX_BYTES = 1 << 16  # of one annotation; the public ones have a few thousand
_BASE = "http://vision.stanford.edu/aditya86/ImageNetDogs"


class StanfordDogs(DatasetBuilder[Options]):
    """Stanford Dogs: 120 breeds, 70 train, 20 val and 30 test.

    Made with the annotations it has boxes, and recipes choose `crop: box | raw`; published few-shot results are of
    uncropped images. The box of an image with several dogs encloses them all. All images of a class are used, so the
    lists of the official train and test halves are not needed. Classes may be absent.
    """

    source = (
        "a folder with images.tar and annotation.tar or their unpacked folders; images.tar alone; or a folder (or "
        "archive) of class folders such as n02085620-Chihuahua"
    )
    urls = {
        "images.tar": (f"{_BASE}/images.tar", "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58"),
        "annotation.tar": (
            f"{_BASE}/annotation.tar",
            "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
        ),
    }
    licence = "Stanford Dogs by Khosla, Jayadevaprakash, Yao and Li; images of ImageNet, on whose terms they are used"
    within = COLLECTIONS

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write the classes present, in the order of the published split."""
        path = sources[0]
        archives = {"images.tar": "Images", "annotation.tar": "Annotation"}
        with open_sources(sources, archives, writer.target.parent) as files:
            if not write_classes("stanford_dogs", files, _images(path, files), {}, writer):
                raise DataError(f"{path}: holds none of Stanford Dogs' 120 class folders; --from takes {self.source}")


def _images(path: Path, files: Sources) -> Boxes:
    """The images in class folders, with boxes where there are annotations."""
    classes = set(classes_of("stanford_dogs"))
    annotations = {
        (pure.parent.name, pure.stem): name
        for name in files
        if (pure := PurePosixPath(name)).parent.name in classes and pure.suffix in ("", ".xml")
    }
    images: Boxes = {}
    for cls, names in by_class_folder(files).items():
        if cls not in classes:
            continue
        by_stem: dict[str, str] = {}
        for name in names:
            stem = PurePosixPath(name).stem
            if stem in by_stem:
                raise DataError(
                    f"{path}: has an image of {cls} twice ({by_stem[stem]}, {name}); give --from one of the folders"
                )
            if annotations and (cls, stem) not in annotations:
                raise DataError(
                    f"{path}: has annotations, but none of {cls}/{stem}; get annotation.tar whole, or leave it out "
                    "for a store without boxes"
                )
            by_stem[stem] = name
        xml = {name: annotations.get((cls, stem)) for stem, name in by_stem.items()}
        images[cls] = {name: _box(files[file], file) if file else None for name, file in xml.items()}
    return images


class _PlainXml(ElementTree.TreeBuilder):
    """Refuses documents that define entities, which could grow without end."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type")


def _box(files: Source, name: str) -> Box:
    """The box around all dogs of an annotation."""
    data = files.read(name)
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has {len(data):,} bytes")
        root = ElementTree.fromstring(data, ElementTree.XMLParser(target=_PlainXml()))
        sides = [
            [int(float(box.findtext(side) or "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for box in root.iter("bndbox")
        ]
        if not sides:
            raise ValueError("it has no bndbox")
    except (ElementTree.ParseError, ValueError, OverflowError, LookupError) as error:
        raise DataError(
            f"{files.path}/{name}: is not an annotation of Stanford Dogs ({error}); get it again"
        ) from error
    left, top, right, bottom = zip(*sides, strict=True)
    return min(left), min(top), max(right), max(bottom)
