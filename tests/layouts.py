"""What tests of datasets and weights share: small copies of public layouts, and a pickle that would run code."""

import io
import pickle
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import torch


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def saved(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, data in files.items():
            out.writestr(name, data)
    return file.getvalue()


def table(store) -> dict[str, dict[str, int]]:
    """split → class → number of images."""
    return {s: dict(Counter(p["classes"][i] for i in p["label"])) for s, p in store.index["splits"].items()}


class Malicious:
    """Unpickling it opens the flag for writing."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self):
        return (open, (str(self.flag), "w"))


def write_malicious(path: Path, flag: Path, content: object, how: str) -> None:
    """Write `content`, which holds a `Malicious`, as PyTorch's `zip` or `legacy`, or only that as a bare `pickle`."""
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(flag), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
