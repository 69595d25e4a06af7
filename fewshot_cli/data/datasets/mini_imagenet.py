"""miniImageNet (Vinyals et al. 2016) by the classes and file lists of Ravi and Larochelle (2017).

The lists ship as `splits/mini_imagenet.json`: for each class a hexadecimal number whose bit k says that image k of
the class is listed, under the name `<wnid><k in 8 digits>.jpg`.
"""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.format import SPLITS
from fewshot_cli.data.imagenet import COLLECTIONS, LICENCE, ClassFolders, absent, number, warn_if_small
from fewshot_cli.data.layouts import lone_archive, split_file
from fewshot_cli.data.pickles import tame_pickle
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import progress

_CACHES = {split: f"mini-imagenet-cache-{split}.pkl" for split in SPLITS}
_VALIDATION = "mini-imagenet-cache-validation.pkl"  # learn2learn's name for the second
_PHASES = {"train": "train_phase_train", "val": "val", "test": "test"}  # train_phase_val/test: other images of the
_CATEGORIES = {s: f"miniImageNet_category_split_{p}.pickle" for s, p in _PHASES.items()}  # training classes


def file_lists() -> dict[str, dict[str, list[int]]]:
    """The published lists: split → class → numbers of its 600 images, counted from 1."""
    return {
        split: {
            wnid: [k for k, bit in enumerate(reversed(f"{int(bits, 16):b}")) if bit == "1"]
            for wnid, bits in classes.items()
        }
        for split, classes in split_file("mini_imagenet").items()
    }


class MiniImageNet(DatasetBuilder[Options]):
    """miniImageNet: 64 train, 16 val, 20 test classes of ImageNet, 600 images each, by Ravi and Larochelle's lists.

    ImageNet may not be redistributed, so nothing is downloaded. --from takes one of these, as a folder, tar or zip:

    - ImageNet's training images: class folders n01532829/n01532829_5.JPEG, class tars n01532829.tar, or
      ILSVRC2012_img_train.tar. The lists' own names (n0153282900000005.jpg) are not ImageNet's: number 5 is taken as
      the fifth image of the class in the order of the numbers in ImageNet's names, as the public tools do
      (yaoyao-liu/mini-imagenet-tools, wyharveychen/CloserLookFewShot). That order is the tools' reading: the lists'
      authors are not known to have confirmed it. It needs the whole class: an image missing from it shifts all later
      ones, and only a large gap can be noticed.
    - Images under the lists' names, in one folder (images/, as DeepEMD's code has it) or in class folders, with or
      without train/ val/ test/ around them. The lists decide the split, not the folders or a CSV beside.
    - 84×84 pickles, split by file: mini-imagenet-cache-{train,val,test}.pkl (learn2learn: validation), or MetaOptNet's
      miniImageNet_category_split_{train_phase_train,val,test}.pickle. DeepEMD's accuracies cannot be reached from
      these.
    """

    source = (
        "ImageNet's training images (image-net.org, after accepting its terms) or a copy of miniImageNet; "
        "`fsl show dataset mini_imagenet` lists the layouts"
    )
    licence = LICENCE
    within = COLLECTIONS

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write class by class in the order of the lists, images by number."""
        with Source(lone_archive(sources[0]), writer.target.parent) as files:
            by_name = {PurePosixPath(name).name: name for name in files.names}
            if _VALIDATION in by_name:
                by_name.setdefault(_CACHES["val"], by_name[_VALIDATION])
            kind = next((kind for kind in (_CACHES, _CATEGORIES) if set(kind.values()) & set(by_name)), None)
            if kind is not None:
                self._from_pickles(files, {split: by_name.get(name, "") for split, name in kind.items()}, kind, writer)
            elif any(number(name, listed=True) for name in files.names):
                self._from_listed(files, writer)
            else:
                self._from_imagenet(files, writer)
        warn_if_small(writer.longest_side(), "the images in their original size")

    def _from_listed(self, files: Source, writer: ImageSink) -> None:
        members: dict[tuple[str, int], str] = {}
        for name in files.names:
            if key := number(name, listed=True):
                if key in members:
                    raise DataError(
                        f"{files.path}: has a listed image twice ({members[key]}, {name}); "
                        "give --from one of the two folders"
                    )
                members[key] = name
        lists = file_lists()
        self._require({wnid for wnid, _ in members}, lists, files.path)
        order = [(split, wnid, k) for split, classes in lists.items() for wnid, ks in classes.items() for k in ks]
        if missing := [f"{wnid}{k:08d}.jpg" for _, wnid, k in order if (wnid, k) not in members]:
            raise DataError(
                f"{files.path}: lacks {len(missing):,} of the {len(order):,} listed images "
                f"(first {missing[0]}); miniImageNet is exactly these, so get a whole copy"
            )
        with progress("mini_imagenet", len(order)) as bar:
            for done, (split, wnid, k) in enumerate(order, 1):
                writer.add(split, wnid, files.read(members[wnid, k]), f"{wnid}/{wnid}{k:08d}.jpg")
                bar.update(done)

    def _from_imagenet(self, files: Source, writer: ImageSink) -> None:
        lists = file_lists()
        folders = ClassFolders(files, writer.target.parent)
        self._require({wnid for classes in lists.values() for wnid in classes if wnid in folders}, lists, files.path)
        order = [(split, wnid, ks) for split, classes in lists.items() for wnid, ks in classes.items()]
        with progress("mini_imagenet, classes", len(order)) as bar:
            for done, (split, wnid, ks) in enumerate(order, 1):
                with folders.opened(wnid) as (source, names):
                    names = [n for n in names if number(n, listed=False)]
                    if len(names) < ks[-1]:
                        raise DataError(
                            f"{source.path}: class {wnid} has {len(names):,} images named like {wnid}_5.JPEG, but "
                            f"the lists go up to number {ks[-1]:,}; give --from ImageNet's whole training set"
                        )
                    for k in ks:
                        writer.add(split, wnid, source.read(names[k - 1]), f"{wnid}/{PurePosixPath(names[k - 1]).name}")
                bar.update(done)

    def _from_pickles(self, files: Source, members: dict[str, str], kind: dict[str, str], writer: ImageSink) -> None:
        lists = file_lists()
        for split, name in members.items():
            if not name:
                raise DataError(
                    f"{files.path}: has some of miniImageNet's pickles but lacks {kind[split]}; put it beside them"
                )
        for split, name in members.items():
            where = f"{files.path}/{name}"
            try:
                with files.open(name) as stream:
                    data = tame_pickle(stream, where)
                images, classes = (_cache if kind is _CACHES else _categories)(data, split, lists[split])
                del data  # the next file must not wait in memory beside this one
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise DataError(f"{where}: is not one of miniImageNet's pickles ({error!r}); get it again") from error
            counts = {cls: len(indices) for cls, indices in classes.items()}
            if set(counts) != set(lists[split]) and (kind is _CACHES or len(counts) != len(lists[split])):
                raise DataError(
                    f"{where}: its {len(counts)} classes are not the {len(lists[split])} of the published "
                    f"{split} split; get the copy made by Ravi and Larochelle's lists"
                )
            each = len(next(iter(lists[split].values())))
            if odd := next((cls for cls in counts if counts[cls] != each), None):
                raise DataError(f"{where}: class {odd} has {counts[odd]} images, not {each}; get a whole copy")
            for cls, indices in classes.items():
                for k in indices:
                    writer.add(split, cls, images[k], f"{cls}/{k}")
            del images

    def _require(self, have: set[str], lists: dict[str, dict[str, list[int]]], path: Path) -> None:
        needed = [wnid for classes in lists.values() for wnid in classes]
        if missing := [wnid for wnid in needed if wnid not in have]:
            raise absent(path, "miniImageNet", missing, len(needed), self.source)


def _field(data: dict, key: str) -> Any:
    """An entry of a pickled dictionary, whose keys are bytes where Python 2 wrote it."""
    return data[key] if key in data else data[key.encode()]


def _pixels(data: Any) -> np.ndarray:
    images = np.asarray(data)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"its images are {images.dtype} {list(images.shape)}, not uint8 [N,H,W,3]")
    return images


def _cache(data: Any, split: str, published: dict[str, list[int]]) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Pixels, and class → indices in the published order, of `image_data` and `class_dict`."""
    images = _pixels(_field(data, "image_data"))
    classes = {
        c.decode() if isinstance(c, bytes) else c: [int(k) for k in ks] for c, ks in _field(data, "class_dict").items()
    }
    used = Counter(k for ks in classes.values() for k in ks)
    if used and (min(used) < 0 or max(used) >= len(images) or max(used.values()) > 1):
        raise ValueError("its class_dict does not fit its images")
    return images, {c: classes[c] for c in [*published, *classes] if c in classes}


def _categories(data: Any, split: str, published: dict[str, list[int]]) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Pixels, and class → indices, of `data` and `labels`.

    Classes are named by `catname2label` where that gives the published names, else `train_00` and so on.
    """
    images, labels = _pixels(_field(data, "data")), [int(label) for label in _field(data, "labels")]
    if len(labels) != len(images):
        raise ValueError(f"it has {len(labels)} labels for {len(images)} images")
    table = data.get("catname2label", data.get(b"catname2label")) or {}
    names = {int(label): c.decode() if isinstance(c, bytes) else str(c) for c, label in table.items()}
    members: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for k, label in enumerate(labels):
        members[label].append(k)
    if {names.get(label) for label in members} == set(published):
        by_name = {names[label]: ks for label, ks in members.items()}
        return images, {c: by_name[c] for c in published}
    return images, {f"{split}_{label:02d}": ks for label, ks in members.items()}
