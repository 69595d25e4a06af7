"""CUB-200-2011 (Wah et al. 2011) by the 100/50/50 class split that FEAT and DeepEMD use: whole images, with boxes."""

from pathlib import Path, PurePosixPath

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.data.layouts import Box, by_class_folder, class_split, folder_and_file, lone_archive
from fewshot_cli.errors import DataError


class CUB(DatasetBuilder[Options]):
    """CUB-200-2011: 200 bird species, 100 train, 50 val and 50 test.

    Made from the archive it has boxes, and recipes choose `crop: box | raw`. A folder or tar of class folders is taken
    as it is, without boxes, also when some of the 200 classes are absent.
    """

    source = (
        "CUB_200_2011.tgz, its unpacked folder, or a folder (or tar) of class folders such as "
        "001.Black_footed_Albatross"
    )
    urls = {
        "CUB_200_2011.tgz": (
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        )
    }
    licence = "CUB-200-2011 by Wah, Branson, Welinder, Perona and Belongie; for research"

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write the classes present, in the order of the published split."""
        path = lone_archive(sources[0])
        with Source(path, writer.target.parent) as files:
            boxes = _boxes(files)
            groups = by_class_folder(files.names)
            written = 0
            for split, classes in class_split("cub").items():
                for cls in classes:
                    for name in groups.get(cls, []):
                        key = folder_and_file(name)
                        writer.add(split, cls, files.read(name), key, boxes.get(key))
                        written += 1
        if not written:
            raise DataError(f"{path}: holds none of CUB's 200 class folders; --from takes {self.source}")


def _boxes(files: Source) -> dict[str, Box]:
    """`<class>/<file>` → its box, from the archive's two lists; empty when they are absent."""
    lists = {PurePosixPath(n).name: n for n in files.names if n.endswith(".txt")}
    if not {"images.txt", "bounding_boxes.txt"} <= set(lists):
        return {}
    try:
        paths = dict(line.split() for line in files.read(lists["images.txt"]).decode().splitlines() if line.strip())
        out = {}
        for line in files.read(lists["bounding_boxes.txt"]).decode().splitlines():
            if line.strip():
                number, *numbers = line.split()
                x, y, w, h = (int(float(v)) for v in numbers)
                out[paths[number]] = (x, y, x + max(w, 1), y + max(h, 1))
        return out
    except (KeyError, ValueError) as error:
        raise DataError(f"{files.path}: images.txt or bounding_boxes.txt is not in CUB's format ({error!r})") from error
