"""Reading folders and archives that may be hostile: members are read by name, never extracted to a path they choose."""

import io
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Self

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import guarded

MAX_MEMBER = 1 << 30  # bytes of one member
MAX_TOTAL = 400 << 30  # bytes of all members together
MAX_RATIO = 1100  # unpacked over packed: DEFLATE cannot exceed 1032
MAX_MEMBERS = 5_000_000
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


class _Whole(tarfile.TarInfo):
    """A header that may not be missing or damaged: tarfile takes either for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as fault:
            raise tarfile.ReadError(f"{fault} at byte {tar.offset:,}") from fault


class Source:
    """The files of a folder, zip or tar: `names`, and `read(name)`. A context manager.

    `option` is the command's option that names the path. A compressed tar is spooled once, unpacked, to an unnamed
    temporary file in `scratch`. Raises `DataError` for a truncated or damaged archive, a member that climbs out of its
    folder, links and devices, and bombs.
    """

    def __init__(self, path: Path, scratch: Path, option: str = "--from") -> None:
        self.path = path
        self._stack = ExitStack()
        self._zip: zipfile.ZipFile | None = None
        self._spans: dict[str, tuple[int, int]] = {}
        if not path.exists():
            raise DataError(f"{path}: does not exist; give {option} an archive or a folder")
        if path.is_dir():
            found = (p.relative_to(path) for p in path.rglob("*") if p.is_file())
            self.names = sorted(p.as_posix() for p in found if not hidden(p.as_posix()))
            return
        try:
            if tarfile.is_tarfile(path):  # first: a tar that ends in a zip would pass for a zip
                self._open_tar(scratch)
            elif zipfile.is_zipfile(path):
                self._open_zip()
            else:
                raise DataError(
                    f"{path}: is neither a folder nor a whole zip or tar archive; if it was downloaded, do it again"
                )
        except _BROKEN as fault:
            self._stack.close()
            raise DataError(f"{path}: is truncated or damaged ({fault}); download it again") from fault
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, name: str) -> bytes:
        """Content of one file. Raises `DataError` when the archive is damaged there."""
        if self.path.is_dir():
            with guarded(self.path / name):
                return (self.path / name).read_bytes()
        try:
            if self._zip is not None:
                return self._zip.read(self._members[name])
            offset, size = self._spans[name]
            self._file.seek(offset)
            content = self._file.read(size)
        except _BROKEN as fault:
            raise DataError(f"{self.path}: is damaged at {name} ({fault}); download it again") from fault
        if len(content) != size:
            raise DataError(f"{self.path}: ends inside {name}; download it again")
        return content

    def open(self, name: str) -> BinaryIO:
        """The same as a stream; a file of a folder is not read at once, however large. Raises `DataError`."""
        if self.path.is_dir():
            with guarded(self.path / name):
                return (self.path / name).open("rb")
        return io.BytesIO(self.read(name))

    def _open_zip(self) -> None:
        self._zip = self._stack.enter_context(zipfile.ZipFile(self.path))
        self._members, total = {}, 0
        for info in self._zip.infolist():
            name = self._safe(info.filename)
            total = self._within(name, info.file_size, total, len(self._members))
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(f"{self.path}: member {name} is a link or device; such an archive is not read")
            if not info.is_dir() and not hidden(name):
                self._members[name] = info
        self.names = sorted(self._members)

    def _open_tar(self, scratch: Path) -> None:
        with self.path.open("rb") as file:
            packed = file.read(6)
        compressed = packed[:2] == b"\x1f\x8b" or packed[:3] == b"BZh" or packed[:6] == b"\xfd7zXZ\x00"
        if compressed:
            with guarded(scratch):
                scratch.mkdir(parents=True, exist_ok=True)
                self._file = self._stack.enter_context(tempfile.TemporaryFile(dir=scratch))
        else:
            self._file = self._stack.enter_context(self.path.open("rb"))
        total = at = 0
        with tarfile.open(self.path, tarinfo=_Whole) as tar:
            for member in tar:
                name = self._safe(member.name)
                total = self._within(name, member.size, total, len(self._spans))
                if member.isdir():
                    continue
                if not member.isreg():
                    raise DataError(f"{self.path}: member {name} is a link or device; such an archive is not read")
                if hidden(name):
                    continue
                if compressed:
                    with guarded(scratch):
                        shutil.copyfileobj(tar.extractfile(member), self._file)
                    if self._file.tell() != at + member.size:
                        raise DataError(f"{self.path}: ends inside {name}; download it again")
                self._spans[name] = (at if compressed else member.offset_data, member.size)
                at += member.size
            while tar.fileobj.read(1 << 20):  # to the end, where the compressor's checksum is
                pass
        self.names = sorted(self._spans)

    def _safe(self, name: str) -> str:
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or (pure.parts and pure.parts[0].endswith(":")):
            raise DataError(f"{self.path}: member {name!r} climbs out of its folder; such an archive is not read")
        return pure.as_posix()

    def _within(self, name: str, size: int, total: int, count: int) -> int:
        total, packed = total + size, self.path.stat().st_size
        if size > MAX_MEMBER or total > MAX_TOTAL or total > MAX_RATIO * packed + (1 << 20) or count > MAX_MEMBERS:
            raise DataError(
                f"{self.path}: member {name} would unpack to {total:,} bytes from {packed:,}: a bomb; not read "
                "(if you trust it, unpack it and give the folder)"
            )
        return total


def hidden(name: str) -> bool:
    """Whether a file or a folder above it begins with a dot, as what macOS adds to archives does."""
    return any(part.startswith(".") for part in PurePosixPath(name).parts)
