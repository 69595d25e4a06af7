"""NABirds (Van Horn et al. 2015) by the 350/66/139 class split of the fine-grained few-shot papers, with boxes."""

from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.layouts import (
    Box,
    Boxes,
    Sources,
    by_class_folder,
    classes_of,
    folder_and_file,
    located,
    open_sources,
    write_classes,
)
from fewshot_cli.errors import DataError

MAX_BYTES = 1 << 26  # of one list; the longest public one has 4 MB


class NABirds(DatasetBuilder[Options]):
    """NABirds: 555 classes of North American birds, sexes and plumages apart, 350 train, 66 val and 139 test.

    Recipes choose `crop: box | raw`; published few-shot results are on uncropped images. Classes are named as in
    classes.txt, such as `Mallard (Breeding male)`, with the folder's number where several have the same name. Classes
    may be absent, but one that is present must have all listed images. A folder or archive of class folders without the
    lists gives no boxes. The images are available from dl.allaboutbirds.org/nabirds after accepting its terms.
    """

    source = "nabirds.tar.gz, its unpacked folder, or a folder (or archive) of class folders such as 0297"
    licence = "NABirds by Cornell Lab of Ornithology and its photographers; for non-commercial research and education"

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write the classes present, in the order of the published split."""
        path = sources[0]
        with open_sources(sources, {"nabirds.tar.gz": "images"}, writer.target.parent) as files:
            lists = _lists(files)
            if "images.txt" in lists:
                images = located(path, files, _listed(path, files, lists))
            else:
                images = {cls: dict.fromkeys(names) for cls, names in by_class_folder(files).items()}
            if not write_classes("nabirds", files, images, _titles(files, lists.get("classes.txt")), writer):
                raise DataError(f"{path}: holds none of NABirds' 555 classes; --from takes {self.source}")


def _lists(files: Sources) -> dict[str, str]:
    """The text lists of the highest folder that has images.txt, or of the highest folder with any, by file name."""
    texts = [PurePosixPath(name) for name in files if name.endswith(".txt")]
    texts.sort(key=lambda pure: (pure.name != "images.txt", len(pure.parts), pure))
    return {pure.name: pure.as_posix() for pure in texts if pure.parent == texts[0].parent}


def _table(files: Sources, name: str) -> dict[str, str]:
    """First word of each line → the rest of it, perhaps nothing."""
    where, data = f"{files[name].path}/{name}", files[name].read(name)
    if len(data) > MAX_BYTES:
        raise DataError(f"{where}: has {len(data):,} bytes, NABirds' lists less than {MAX_BYTES:,}; get it again")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not a text ({error.reason}); get it again") from error
    return {words[0]: words[1].strip() if len(words) > 1 else "" for line in lines if (words := line.split(maxsplit=1))}


def _listed(path: Path, files: Sources, lists: dict[str, str]) -> Boxes:
    """Class → `<folder>/<file>` → box, for every image of images.txt."""
    if "image_class_labels.txt" not in lists:
        raise DataError(
            f"{path}: has images.txt, but no image_class_labels.txt beside it to say the classes; get it whole"
        )
    images, labels = _table(files, lists["images.txt"]), _table(files, lists["image_class_labels.txt"])
    sides = _table(files, lists["bounding_boxes.txt"]) if "bounding_boxes.txt" in lists else None
    out: Boxes = defaultdict(dict)
    for key, name in images.items():
        try:
            box: Box | None = None
            if sides is not None:
                x, y, w, h = (int(float(side)) for side in sides[key].split())
                box = (x, y, x + w, y + h)
            out[f"{int(labels[key]):04d}"][folder_and_file(name)] = box
        except (KeyError, ValueError, OverflowError) as error:
            raise DataError(
                f"{path}: image_class_labels.txt or bounding_boxes.txt has no valid line for {key} of "
                f"images.txt ({error!r}); get it again"
            ) from error
    return out


def _titles(files: Sources, name: str | None) -> dict[str, str]:
    """What each class of the split is called, by its folder; none without the list `name`."""
    if name is None:
        return {}
    table = {number.zfill(4): " ".join(rest.split()) for number, rest in _table(files, name).items() if rest}
    folders = classes_of("nabirds")
    named = {cls: table[cls] for cls in folders if cls in table}
    counts = Counter(named.values())
    titles = {cls: title if counts[title] == 1 else f"{title} ({cls})" for cls, title in named.items()}
    if len({*titles.values(), *folders}) != len(titles) + len(folders):
        raise DataError(f"{files[name].path}/{name}: names classes by numbers of others; get it again")
    return titles
