"""NABirds (Van Horn et al. 2015) by the 350/66/139 class split of the fine-grained few-shot papers; boxes kept."""

from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from fewshot_cli.contracts import DatasetBuilder, Options
from fewshot_cli.data.annotated import Box, located, opened, pack, tail
from fewshot_cli.data.archive import Source
from fewshot_cli.data.layouts import by_class_folder, class_split
from fewshot_cli.data.store import StoreWriter
from fewshot_cli.errors import DataError

MAX_LIST = 1 << 26  # bytes of one list; the longest public one has 4 MB


class NABirds(DatasetBuilder[Options]):
    """NABirds: 555 classes of North American birds, sexes and plumages apart, 350 train, 66 val and 139 test.

    Recipes choose `crop: box | raw`; published few-shot figures are of uncropped pictures. Classes are named as in
    classes.txt, such as `Mallard (Breeding male)`, with the folder's number where a name is not the only one of its
    kind. Classes may be absent, but of one that is there all listed pictures must be. A folder or archive of class
    folders without the lists gives no boxes. The pictures are to be had from dl.allaboutbirds.org/nabirds after
    accepting its terms.
    """

    source = "nabirds.tar.gz, its unpacked folder, or a folder (or archive) of class folders such as 0297"
    licence = "NABirds by Cornell Lab of Ornithology and its photographers; for non-commercial research and education"

    def build(self, sources: list[Path], writer: StoreWriter) -> None:
        """Write the classes present, in the order of the published split."""
        path = sources[0]
        with opened(sources, {"nabirds.tar.gz": "images"}, writer.target.parent) as at:
            lists = _lists(at)
            if "images.txt" in lists:
                groups = located(path, at, _listed(path, at, lists))
            else:
                groups = {cls: dict.fromkeys(names) for cls, names in by_class_folder(at).items()}
            if not pack("nabirds", at, groups, _names(at, lists.get("classes.txt")), writer):
                raise DataError(f"{path}: holds none of NABirds' 555 classes; --from takes {self.source}")


def _lists(at: dict[str, Source]) -> dict[str, str]:
    """The text lists of the highest folder that has images.txt, or of the highest folder with any, by file name."""
    texts = [PurePosixPath(name) for name in at if name.endswith(".txt")]
    texts.sort(key=lambda pure: (pure.name != "images.txt", len(pure.parts), pure))
    return {pure.name: pure.as_posix() for pure in texts if pure.parent == texts[0].parent}


def _table(at: dict[str, Source], name: str) -> dict[str, str]:
    """First word of each line → the rest of it, perhaps nothing."""
    where, data = f"{at[name].path}/{name}", at[name].read(name)
    if len(data) > MAX_LIST:
        raise DataError(f"{where}: has {len(data):,} bytes, NABirds' lists less than {MAX_LIST:,}; get it again")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as fault:
        raise DataError(f"{where}: is not a text ({fault.reason}); get it again") from fault
    return {words[0]: words[1].strip() if len(words) > 1 else "" for line in lines if (words := line.split(maxsplit=1))}


def _listed(path: Path, at: dict[str, Source], lists: dict[str, str]) -> dict[str, dict[str, Box | None]]:
    """Class → `<folder>/<file>` → box, for every picture of images.txt."""
    if "image_class_labels.txt" not in lists:
        raise DataError(
            f"{path}: has images.txt, but no image_class_labels.txt beside it to say the classes; get it whole"
        )
    pictures, labels = _table(at, lists["images.txt"]), _table(at, lists["image_class_labels.txt"])
    sides = _table(at, lists["bounding_boxes.txt"]) if "bounding_boxes.txt" in lists else None
    out: dict[str, dict[str, Box | None]] = defaultdict(dict)
    for key, name in pictures.items():
        try:
            box = None
            if sides is not None:
                x, y, w, h = (int(float(side)) for side in sides[key].split())
                box = (x, y, x + w, y + h)
            out[f"{int(labels[key]):04d}"][tail(name)] = box
        except (KeyError, ValueError, OverflowError) as fault:
            raise DataError(
                f"{path}: image_class_labels.txt or bounding_boxes.txt has no right line for {key} of "
                f"images.txt ({fault!r}); get it again"
            ) from fault
    return out


def _names(at: dict[str, Source], name: str | None) -> dict[str, str]:
    """What each class of the split is called, by its folder."""
    table = (
        {number.zfill(4): " ".join(rest.split()) for number, rest in _table(at, name).items() if rest} if name else {}
    )
    folders = [cls for classes in class_split("nabirds").values() for cls in classes]
    often = Counter(table.get(cls) for cls in folders)
    names = {cls: table[cls] if often[table[cls]] == 1 else f"{table[cls]} ({cls})" for cls in folders if cls in table}
    if len({*names.values(), *folders}) != len(names) + len(folders):
        raise DataError(f"{at[name].path}/{name}: names classes by numbers of others; get it again")
    return names
