"""CIFAR-FS (Bertinetto et al. 2019) and FC100 (Oreshkin et al. 2018): CIFAR-100's 600 images per class, split by class.

The images of a class are stored in the order of their SHA-256, so that the store, and with it every episode, is the
same whether it was made from the public archive or from a folder.
"""

import hashlib
import io
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.decode import measure
from fewshot_cli.data.layouts import by_class_folder, class_split, classes_of
from fewshot_cli.data.pickles import tame_pickle
from fewshot_cli.errors import DataError


class _Cifar100(DatasetBuilder[Options]):
    source = "cifar-100-python.tar.gz, its unpacked folder, or a folder of 32×32 images in class folders"
    urls = {
        "cifar-100-python.tar.gz": (
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        )
    }
    licence = "CIFAR-100 by Krizhevsky, Nair and Hinton; for research"
    split_file = ""

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write the 100 classes by the published split."""
        with Source(sources[0], writer.target.parent) as files:
            images = _from_pickles(files) or _from_folders(files)
        if missing := [cls for cls in classes_of(self.split_file) if cls not in images]:
            raise DataError(
                f"{sources[0]}: lacks {len(missing)} of CIFAR-100's 100 classes ({', '.join(missing[:3])}, …); "
                f"--from takes {self.source}"
            )
        for part, classes in class_split(self.split_file).items():
            for cls in classes:
                ordered = sorted(images[cls], key=lambda pixels: hashlib.sha256(pixels.tobytes()).digest())
                for number, pixels in enumerate(ordered):
                    writer.add(part, cls, pixels, f"{cls}/{number:03d}")


def _from_pickles(files: Source) -> dict[str, list[np.ndarray]]:
    """Images by class from the python version's `train`, `test` and `meta`; empty when they are not there."""
    by_name = {PurePosixPath(n).name: n for n in files.names if PurePosixPath(n).suffix == ""}
    if not {"train", "test", "meta"} <= set(by_name):
        return {}
    out: dict[str, list[np.ndarray]] = defaultdict(list)
    where = f"{files.path}/"
    try:
        meta = tame_pickle(files.read(by_name["meta"]), where + "meta")
        names = [n.decode() for n in meta[b"fine_label_names"]]
        for part in ("train", "test"):
            batch = tame_pickle(files.read(by_name[part]), where + part)
            data = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for pixels, label in zip(data, batch[b"fine_labels"], strict=True):
                out[names[label]].append(np.ascontiguousarray(pixels))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{files.path}: is not the python version of CIFAR-100 ({error!r}); download it again"
        ) from error
    return out


def _from_folders(files: Source) -> dict[str, list[np.ndarray]]:
    out: dict[str, list[np.ndarray]] = {}
    for cls, names in by_class_folder(files.names).items():
        out[cls] = []
        for name in names:
            data = files.read(name)
            if measure(data, f"{files.path}/{name}") != (32, 32):
                raise DataError(f"{files.path}/{name}: is not 32×32; CIFAR-100's images are")
            out[cls].append(np.array(Image.open(io.BytesIO(data)).convert("RGB")))
    return out


class CifarFS(_Cifar100):
    """CIFAR-FS: 64 train, 16 val and 20 test classes of CIFAR-100, 600 images each, 32×32."""

    split_file = "cifar_fs"
    sha256 = "4db4d6db85d0f9bd7968c3af0685bfe5936f97bcc11824529abdc68e5978f0f4"


class FC100(_Cifar100):
    """FC100: CIFAR-100 split by superclass into 60 train, 20 val and 20 test classes, 600 images each, 32×32."""

    split_file = "fc100"
    sha256 = "bb9065d7b3bb5700399dd8c52a8f6f5f62051823c06b8e4a49c328842c8dff33"
