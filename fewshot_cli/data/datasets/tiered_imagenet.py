"""tieredImageNet (Ren et al. 2018): 608 classes of ImageNet, split by their superclasses in WordNet."""

from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.format import SPLITS
from fewshot_cli.data.imagenet import COLLECTIONS, LICENCE, ClassFolders, absent, warn_if_small
from fewshot_cli.data.kinds import is_image
from fewshot_cli.data.layouts import class_split, lone_archive
from fewshot_cli.data.pickles import tame_pickle
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import progress, say

PUBLISHED = {"train": 448_695, "val": 124_261, "test": 206_209}  # images
_LABELS = "{}_labels.pkl"
_PACKED = ("{}_images_png.pkl", "{}_images.npz")  # in the order of preference: the first is smaller


class TieredImageNet(DatasetBuilder[Options]):
    """tieredImageNet: 351 train, 97 val and 160 test classes of ImageNet, all their training images (779,165).

    ImageNet may not be redistributed, so nothing is downloaded. --from takes one of these:

    - ImageNet's training images as a folder, tar or zip: class folders n01532829/, class tars n01532829.tar, or
      ILSVRC2012_img_train.tar. With or without train/ val/ test/ around the class folders; the published list decides
      the split.
    - train/ val/ test/ folders with 351, 97 and 160 class folders of any names: then the folders decide the split.
    - Ren et al.'s 84×84 copies in a folder: for train, val and test *_images_png.pkl or *_images.npz, and *_labels.pkl.
      Arrays in the npz are BGR, as OpenCV left them, and become RGB. Classes keep the names in the labels file,
      in its order. Memory must hold one split. DeepEMD's accuracies cannot be reached from these.
    """

    source = (
        "ImageNet's training images (image-net.org, after accepting its terms) or a copy of tieredImageNet; "
        "`fsl show dataset tiered_imagenet` lists the layouts"
    )
    licence = LICENCE
    within = COLLECTIONS

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write class by class in the order of the published list, images by number."""
        with Source(lone_archive(sources[0]), writer.target.parent) as files:
            at_top = {PurePosixPath(name).name: name for name in files.names}
            if any(form.format(split) in at_top for form in _PACKED for split in SPLITS):
                _from_packed(files, at_top, writer)
            else:
                self._from_classes(files, writer)
        for split, published in PUBLISHED.items():
            if (count := writer.count(split)) != published:
                say(
                    f"warning: {split} has {count:,} images, the published tieredImageNet {published:,}; "
                    "accuracies may not be comparable"
                )
        warn_if_small(writer.longest_side(), "images of 224 px or the original size")

    def _from_classes(self, files: Source, writer: ImageSink) -> None:
        split = class_split("tiered_imagenet")
        order = [(part, cls) for part, classes in split.items() for cls in classes]
        folders = ClassFolders(files, writer.target.parent)
        missing = [wnid for _, wnid in order if wnid not in folders]
        if len(missing) == len(order) and (groups := _split_folders(files, split)):
            for (part, cls), names in groups.items():
                for name in names:
                    writer.add(part, cls, files.read(name), name)
            return
        if missing:
            raise absent(files.path, "tieredImageNet", missing, len(order), self.source)
        with progress("tiered_imagenet, classes", len(order)) as bar:
            for done, (part, wnid) in enumerate(order, 1):
                with folders.opened(wnid) as (source, names):
                    if not names:
                        raise DataError(f"{source.path}: holds no images of class {wnid}; get it again")
                    for name in names:
                        writer.add(part, wnid, source.read(name), f"{wnid}/{PurePosixPath(name).name}")
                bar.update(done)


def _split_folders(files: Source, split: dict[str, list[str]]) -> dict[tuple[str, str], list[str]]:
    """Images by (split, class) of train/ val/ test/ class folders; empty unless the numbers of classes fit."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in files.names:
        parts = PurePosixPath(name).parts
        if len(parts) >= 3 and parts[-3] in split and is_image(name):
            groups[parts[-3], parts[-2]].append(name)
    if Counter(part for part, _ in groups) != Counter({part: len(classes) for part, classes in split.items()}):
        return {}
    return {(part, cls): names for part in split for (of, cls), names in groups.items() if of == part}


def _from_packed(files: Source, members: dict[str, str], writer: ImageSink) -> None:
    """Ren et al.'s packed copies, one split in memory at a time."""
    form = next((f for f in _PACKED if all(f.format(split) in members for split in SPLITS)), None)
    if form is None:
        raise DataError(
            f"{files.path}: must hold train, val and test as {' or all as '.join(f.format('*') for f in _PACKED)}"
        )
    labels: dict[str, tuple[np.ndarray, list[str]]] = {}
    for split in SPLITS:
        if _LABELS.format(split) not in members:
            raise DataError(f"{files.path}: lacks {_LABELS.format(split)}; put it beside {form.format(split)}")
        labels[split] = _labels(files, members[_LABELS.format(split)], len(class_split("tiered_imagenet")[split]))
    shared = Counter(name for _, names in labels.values() for name in names)  # ImageNet has two classes named crane
    for split, (numbers, names) in labels.items():
        name = members[form.format(split)]
        images = _images(files, name, len(numbers))
        for cls, text in enumerate(names):
            title = text if shared[text] == 1 else f"{text} ({split} {cls})"
            indices = np.flatnonzero(numbers == cls)
            if not len(indices):
                raise DataError(f"{files.path}/{name}: has no image of class {text}; get it again")
            for k in indices:
                image = images[k]
                if isinstance(image, np.ndarray):
                    image = image.tobytes() if image.ndim < 3 else image[..., ::-1]
                writer.add(split, title, image, f"{title}/{k}")
        del images  # the next split must not wait in memory beside this one


def _labels(files: Source, name: str, classes: int) -> tuple[np.ndarray, list[str]]:
    """Class of each image, and the classes' names."""
    where = f"{files.path}/{name}"
    with files.open(name) as stream:
        data = tame_pickle(stream, where)
    try:
        data = {key.decode() if isinstance(key, bytes) else key: value for key, value in data.items()}
        numbers = np.asarray(data["label_specific"]).astype(np.int64)
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in data["label_specific_str"]]
        if len(names) != classes:
            raise ValueError(f"it has {len(names)} classes, not {classes}")
        if numbers.ndim != 1 or not len(numbers) or numbers.min() < 0 or numbers.max() >= classes:
            raise ValueError("its labels are not numbers of its classes")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: is not one of tieredImageNet's label files ({error!r}); get it again") from error
    return numbers, names


def _images(files: Source, name: str, count: int) -> Any:
    """Encoded images, or BGR pixels uint8 [N,H,W,3]."""
    where = f"{files.path}/{name}"
    with files.open(name) as stream:
        if not name.endswith(".npz"):
            images = tame_pickle(stream, where)
            whole = isinstance(images, list) and all(
                isinstance(p, bytes) or (isinstance(p, np.ndarray) and p.dtype == np.uint8 and p.ndim < 3)
                for p in images
            )
        else:
            try:
                images = np.load(stream, allow_pickle=False)["images"]
            except Exception as error:  # NumPy does not document what it raises on a damaged file
                raise DataError(f"{where}: is not a whole npz of images ({error}); get it again") from error
            whole = images.dtype == np.uint8 and images.ndim == 4 and images.shape[-1] == 3
    if not whole or len(images) != count:
        raise DataError(f"{where}: does not hold the {count:,} images of its labels file; get both again")
    return images
