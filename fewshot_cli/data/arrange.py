"""Which class the images in a folder belong to: by its layout, and a question where a layout may mean two things."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from fewshot_cli.errors import DataError

SPLIT_FOLDERS = {  # in lower case, without - and _; the last row is the field's own: base, validation and novel classes
    **dict.fromkeys(("train", "training", "trainset", "trainingset", "metatrain", "trn", "imagesbackground"), "train"),
    **dict.fromkeys(
        (
            "val",
            "valid",
            "validation",
            "valset",
            "validset",
            "validationset",
            "metaval",
            "metavalid",
            "metavalidation",
            "dev",
        ),
        "val",
    ),
    **dict.fromkeys(("test", "testing", "testset", "testingset", "metatest", "tst", "imagesevaluation"), "test"),
    **{"base": "train", "novel": "test"},
}
_IMAGES = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "jpg", "rgb", "color", "colour")
_MASKS = (
    *("masks", "mask", "segmentation", "segmentations", "annotation", "annotations", "groundtruth", "gt", "labels"),
    *("seg", "segmaps", "trimaps", "depth", "crops", "thumbnails", "thumbs", "segmentationclass", "maskpng"),
)
MASK, LOOSE = "masks or crops beside images", "not in a class folder"
LEVELS = ("the first folders", "the second", "the third")


@dataclass
class Arrangement:
    """Images by class, the split of each class that the folder says, and what was left out, by reason.

    `classes` maps names to sorted file names; `splits` is empty where there are no split folders.
    """

    classes: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)


def arrange(names: Iterable[str], where: str, level: int | None = None) -> Arrangement:
    """The classes of images `[folder/…]class/image`, also below split folders such as train, val and test.

    Folders around everything do not matter. Where images lie in folders of folders, `level` says which are the classes:
    1 for the first below those and below split folders, 2 for the second. Raises `DataError` where a layout may be read
    in two ways and there is no `level`, for split folders beside others, and for a class in two splits.
    """
    made, chains = Arrangement(), {}
    for name in sorted(names):
        parts = PurePosixPath(name).parts
        if len(parts) > 1:
            chains[name] = parts[:-1]
        else:
            made.skipped.setdefault(LOOSE, []).append(name)
    chains = _below_wrappers(chains, level or 1, made)
    kept, masks = without_masks(chains, ask=None if level else where)
    if masks:
        made.skipped[MASK] = sorted(masks)
        chains = _below_wrappers({name: chains[name] for name in kept}, level or 1, made)
    split_of = _splits(chains, where, level)
    if split_of:
        chains = {name: chain[1:] for name, chain in chains.items()}
        made.skipped.setdefault(LOOSE, []).extend(name for name, chain in chains.items() if not chain)
        chains = {name: chain for name, chain in chains.items() if chain}
        chains = _below_wrappers(chains, level or 1, made)
    if chains and all(len(chain) > (level or 1) and plain(chain[-1]) in _IMAGES for chain in chains.values()):
        chains = {name: chain[:-1] for name, chain in chains.items()}
    class_of = _classes(chains, where, level)
    for name, cls in class_of.items():
        made.classes.setdefault(cls, []).append(name)
        split = split_of.get(name)
        if split and made.splits.setdefault(cls, split) != split:
            raise DataError(
                f"{where}: class {cls} is in two splits ({made.splits[cls]}, {split}); in few-shot learning a class "
                "belongs to one: give one of the split folders, or a folder of classes without split folders"
            )
    made.classes = dict(sorted(made.classes.items()))
    made.skipped = {reason: found for reason, found in made.skipped.items() if found}
    return made


Chains = dict[str, tuple[str, ...]]
"""File name → the folders that it lies in, from the outside."""


def plain(folder: str) -> str:
    """A name without what people spell in different ways."""
    return folder.lower().replace("-", "").replace("_", "").replace(" ", "")


def _below_wrappers(chains: Chains, levels: int, made: Arrangement) -> Chains:
    """The chains without folders around all of them, as long as so many are left; split folders stay. A few images
    beside the folders inside are in no class folder.
    """
    while chains:
        tops = {chain[0] for chain in chains.values()}
        if len(tops) > 1 or plain(next(iter(tops))) in SPLIT_FOLDERS:
            break
        below = {name: chain[1:] for name, chain in chains.items() if len(chain) > levels}
        beside = [name for name, chain in chains.items() if len(chain) <= levels]
        if not below or (beside and (len({chain[0] for chain in below.values()}) < 2 or len(beside) > len(below))):
            break
        if beside:
            made.skipped.setdefault(LOOSE, []).extend(beside)
        chains = below
    return chains


def without_masks(chains: Chains, ask: str | None = None) -> tuple[list[str], list[str]]:
    """The names without masks, segmentations and crops of other images, and those.

    They lie in a folder called so beside a folder of images, beside split folders or others when they have the others'
    file names, or beside their images with a name that ends so. Where no folder of images is beside them, a folder so
    called may be a class: with `ask`, the path in the message, a `DataError` asks.
    """
    below: dict[tuple[str, ...], set[str]] = defaultdict(set)  # the folders in each folder
    for chain in set(chains.values()):
        for depth, folder in enumerate(chain):
            below[chain[:depth]].add(folder)
    suspects: dict[tuple[str, ...], bool | None] = {}  # certain; None: where its images are called after others
    for above, folders in below.items():
        for folder in folders:
            if plain(folder) in _MASKS and len(folders) > 1:
                certain = any(plain(other) in _IMAGES for other in folders)
                split = any(plain(other) in SPLIT_FOLDERS for other in folders)
                suspects[*above, folder] = certain or (None if split else False)
            elif base := _unmarked(folder):
                if any(base == _unmarked(other, _IMAGES) for other in folders):
                    suspects[*above, folder] = True
                elif base in folders:
                    suspects[*above, folder] = False
    inside: dict[tuple[str, ...], list[str]] = defaultdict(list)
    stems: Counter[str] = Counter()
    masks: list[str] = []
    files = set(chains)
    for name, chain in chains.items():
        held = next((chain[:depth] for depth in range(len(chain), 0, -1) if chain[:depth] in suspects), None)
        pure = PurePosixPath(name)
        beside = _unmarked(pure.stem)
        if held is None and beside and any(f"{pure.parent}/{beside}{end}" in files for end in _endings(pure)):
            masks.append(name)
        elif held is None:
            stems[PurePosixPath(name).stem] += 1
        else:
            inside[held].append(name)
    for suspect, found in inside.items():
        named = sum(any(s in stems for s in (stem, _unmarked(stem))) for stem in (PurePosixPath(n).stem for n in found))
        if suspects[suspect] or (suspects[suspect] is None and 2 * named >= len(found)):
            masks += found
        elif suspects[suspect] is False and ask and 2 * named >= len(found):
            raise DataError(
                f"{ask}: folder {'/'.join(suspect)} may hold masks of the other images, whose file names its images "
                f"have, or be a class; move it elsewhere, or say with --class-level {len(suspect)} that it is one"
            )
    gone = set(masks)
    return [name for name in chains if name not in gone], masks


def _unmarked(name: str, marks: Iterable[str] = (*_MASKS, "segm", "annot", "anno")) -> str:
    """What a mask is called after: `x` of `x_mask`; empty for another name."""
    for sign in ("_", "-", ".", " "):
        head, found, tail = name.rpartition(sign)
        if found and head and plain(tail) in marks:
            return head
    return ""


def _endings(file: PurePosixPath) -> list[str]:
    return list(dict.fromkeys([file.suffix, ".jpg", ".jpeg", ".png", ".JPG", ".PNG", ".bmp", ".tif", ".tiff", ".webp"]))


def _splits(chains: Chains, where: str, level: int | None) -> dict[str, str]:
    """The split of each file, where the outermost folders are split folders; else empty.

    Raises `DataError` when some of them are and some are not, or when there are no class folders in them.
    """
    tops = sorted({chain[0] for chain in chains.values()})
    known = {top: SPLIT_FOLDERS[plain(top)] for top in tops if plain(top) in SPLIT_FOLDERS}
    deep = any(len(chain) > 1 and chain[0] in known for chain in chains.values())
    if len(known) == len(tops) > 1 and not deep and level is None:
        raise DataError(
            f"{where}: the split folders {' and '.join(tops[:3])} hold images themselves, without class folders; put "
            "the images of each class into a folder, or list them in a CSV (file,label,split)"
        )
    if not known or not deep:  # a class may be called base, or test
        return {}
    if odd := [top for top in tops if top not in known]:
        raise DataError(
            f"{where}: has the split folder {min(known)}, but {odd[0]} beside it is none (train, val, test, base, "
            "novel and the like); put its classes into one of these, or the split folders' classes side by side"
        )
    return {name: known[chain[0]] for name, chain in chains.items()}


def _classes(chains: Chains, where: str, level: int | None) -> dict[str, str]:
    """The class of each file. Raises `DataError` where that needs a level that is not given."""
    if not chains:
        return {}
    deepest, flattest = max(map(len, chains.values())), min(map(len, chains.values()))
    if level is None:
        direct = {chain[0] for chain in chains.values() if len(chain) == 1}
        inner = sum(len(chain) > 1 for chain in chains.values())
        if deepest > 1 and ({chain[0] for chain in chains.values()} != direct or 2 * inner > len(chains)):
            raise DataError(_question(chains, where, deepest))
        level = 1  # what lies deeper inside a class folder that has images of its own belongs to it
    elif level > flattest:
        name = next(name for name, chain in chains.items() if len(chain) < level)
        raise DataError(
            f"{where}: {name} lies {flattest} folder{'s' * (flattest > 1)} deep, so it has no class with --class-level "
            f"{level}; move it, or give --class-level {flattest}"
        )
    folders = {name: chain[:level] for name, chain in chains.items()}
    innermost = {plain(folder[-1]) for folder in folders.values()}
    if deepest > level > 1 and len(innermost) > 1 and innermost <= set(SPLIT_FOLDERS):
        raise DataError(
            f"{where}: with --class-level {level} the classes would be split folders ({min(folders.values())[-1]}, …); "
            "give another level, or one of the folders that hold them"
        )
    return _named(folders)


def _named(folders: Chains) -> dict[str, str]:
    """Class names: the innermost folder's, or all of them where two folders have the same."""
    distinct = set(folders.values())
    alike = len({folder[-1] for folder in distinct}) < len(distinct)
    return {name: "/".join(folder) if alike else folder[-1] for name, folder in folders.items()}


def _question(chains: Chains, where: str, deepest: int) -> str:
    """What a folder of folders may mean: the classes of each level."""
    readings = []
    for level, words in enumerate(LEVELS[: min(deepest, len(LEVELS))], 1):
        if all(len(chain) >= level for chain in chains.values()):
            found = sorted(set(_named({name: chain[:level] for name, chain in chains.items()}).values()))
            some = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
            readings.append(f"{words} ({len(found)}: {some}; --class-level {level})")
    if len(readings) == 1:
        loose = next(name for name, chain in chains.items() if len(chain) == 1)
        return (
            f"{where}: images lie in folders of folders, but {loose} does not; its classes may be {readings[0]}, or "
            "move the images of a class into one folder each"
        )
    return f"{where}: images lie in folders of folders; its classes may be {' or '.join(readings)}: say which"
