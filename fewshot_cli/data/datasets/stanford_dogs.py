"""Stanford Dogs (Khosla et al. 2011) by the 70/20/30 class split of the fine-grained few-shot papers."""

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from fewshot_cli.contracts import DatasetBuilder, Options
from fewshot_cli.data.annotated import Box, opened, pack
from fewshot_cli.data.archive import Source
from fewshot_cli.data.layouts import by_class_folder, class_split
from fewshot_cli.data.store import StoreWriter
from fewshot_cli.errors import DataError

MAX_NOTE = 1 << 16  # bytes of one annotation; the public ones have a few thousand
_BASE = "http://vision.stanford.edu/aditya86/ImageNetDogs"


class StanfordDogs(DatasetBuilder[Options]):
    """Stanford Dogs: 120 breeds, 70 train, 20 val and 30 test; with the annotations, recipes choose `crop: box | raw`.

    Published few-shot figures are of uncropped pictures. The box of a picture with several dogs encloses them all. All
    pictures of a class are used, so the lists of the official train and test halves are not needed. Classes may be
    absent.
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
    licence = "Stanford Dogs by Khosla, Jayadevaprakash, Yao and Li; pictures of ImageNet, on whose terms they are used"

    def build(self, sources: list[Path], writer: StoreWriter) -> None:
        """Write the classes present, in the order of the published split."""
        path = sources[0]
        archives = {"images.tar": "Images", "annotation.tar": "Annotation"}
        with opened(sources, archives, writer.target.parent) as at:
            classes = {cls for classes in class_split("stanford_dogs").values() for cls in classes}
            notes = {
                (pure.parent.name, pure.stem): name
                for name in at
                if (pure := PurePosixPath(name)).parent.name in classes and pure.suffix in ("", ".xml")
            }
            groups: dict[str, dict[str, Box | None]] = {}
            for cls, names in by_class_folder(at).items():
                if cls not in classes:
                    continue
                seen: dict[str, str] = {}
                for name in names:
                    stem = PurePosixPath(name).stem
                    if stem in seen:
                        raise DataError(
                            f"{path}: has a picture of {cls} twice ({seen[stem]}, {name}); "
                            "give --from one of the folders"
                        )
                    if notes and (cls, stem) not in notes:
                        raise DataError(
                            f"{path}: has annotations, but none of {cls}/{stem}; get annotation.tar whole, or "
                            "leave it away for a store without boxes"
                        )
                    seen[stem] = name
                note = {name: notes.get((cls, stem)) for stem, name in seen.items()}
                groups[cls] = {name: _box(at[xml], xml) if xml else None for name, xml in note.items()}
            if not pack("stanford_dogs", at, groups, {}, writer):
                raise DataError(f"{path}: holds none of Stanford Dogs' 120 class folders; --from takes {self.source}")


class _Plain(ElementTree.TreeBuilder):
    """Refuses documents that define entities, which could grow without end."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type")


def _box(files: Source, name: str) -> Box:
    """The box around all dogs of an annotation."""
    data = files.read(name)
    try:
        if len(data) > MAX_NOTE:
            raise ValueError(f"it has {len(data):,} bytes")
        root = ElementTree.fromstring(data, ElementTree.XMLParser(target=_Plain()))
        sides = [
            [int(float(box.findtext(side) or "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for box in root.iter("bndbox")
        ]
        if not sides:
            raise ValueError("it has no bndbox")
    except (ElementTree.ParseError, ValueError, OverflowError, LookupError) as fault:
        raise DataError(
            f"{files.path}/{name}: is not an annotation of Stanford Dogs ({fault}); get it again"
        ) from fault
    left, top, right, bottom = zip(*sides, strict=True)
    return min(left), min(top), max(right), max(bottom)
