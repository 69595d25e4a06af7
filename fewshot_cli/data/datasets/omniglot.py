"""Omniglot (Lake et al. 2015): 1,623 handwritten characters, 20 drawings each, split by alphabet."""

from pathlib import Path, PurePosixPath

from fewshot_cli.contracts import DatasetBuilder, ImageSink, Options
from fewshot_cli.data.archive import Source
from fewshot_cli.errors import DataError

_ZIPS = ("images_background", "images_evaluation")
_MD5 = ("68d2efa1b9178cc56df9314c21c6e718", "6b91aef0f799c5bb55b94e3f2daec811")  # as published with torchvision
_BASE = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_VAL_ALPHABETS = 5


class Omniglot(DatasetBuilder[Options]):
    """Omniglot: background alphabets are train, but the last five by name are val; evaluation alphabets are test.

    This is the split of Lake et al. without rotated copies; the 1028/172/423 split of Vinyals et al. is different.
    """

    source = "a folder that holds images_background.zip and images_evaluation.zip (or both unpacked)"
    urls = {f"{z}.zip": (f"{_BASE}/{z}.zip", f"md5:{md5}") for z, md5 in zip(_ZIPS, _MD5, strict=True)}
    licence = "Omniglot by Lake, Salakhutdinov and Tenenbaum; MIT"
    sha256 = "3f43b10af55735619041dc569621a3a32c7fd7de5c99ed8ac8e7ae5163469a3d"

    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write character by character; a class is named `<alphabet>/<character>`."""
        for zip_name in _ZIPS:
            path = _locate(sources, zip_name)
            with Source(path, writer.target.parent) as files:
                drawings: dict[tuple[str, str], list[str]] = {}
                for name in files.names:
                    parts = PurePosixPath(name).parts
                    if name.endswith(".png") and len(parts) >= 3:
                        drawings.setdefault((parts[-3], parts[-2]), []).append(name)
                if not drawings:
                    raise DataError(f"{path}: holds no <alphabet>/<character>/<drawing>.png; download it again")
                alphabets = sorted({alphabet for alphabet, _ in drawings})
                held_out = set(alphabets[-_VAL_ALPHABETS:] if zip_name == _ZIPS[0] else [])
                for val in (False, True):
                    split = "test" if zip_name == _ZIPS[1] else "val" if val else "train"
                    for (alphabet, character), names in sorted(drawings.items()):
                        if (alphabet in held_out) == val:
                            for name in names:
                                writer.add(split, f"{alphabet}/{character}", files.read(name), f"{path.name}/{name}")


def _locate(sources: list[Path], stem: str) -> Path:
    for source in sources:
        for path in (source, source / f"{stem}.zip", source / stem):
            if path.exists() and path.name.removesuffix(".zip") == stem:
                return path
    raise DataError(f"{sources[0]}: has neither {stem}.zip nor {stem}/; --from takes {Omniglot.source}")
