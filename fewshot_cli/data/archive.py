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
from typing import IO, BinaryIO, Self

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import guarded, regular

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

_DAMAGED_HEADERS: tuple[type[tarfile.HeaderError], ...] = (
    tarfile.EmptyHeaderError,  # type: ignore[attr-defined]  # typeshed knows their base class only
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]  # as above
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined]  # as above
)


class _Whole(tarfile.TarInfo):
    """A header that must be there and whole: tarfile takes a missing or damaged one for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except _DAMAGED_HEADERS as error:
            raise tarfile.ReadError(f"{error} at byte {tar.offset:,}") from error


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
        self._members: dict[str, zipfile.ZipInfo] = {}  # of a zip
        self._spans: dict[str, tuple[int, int]] = {}  # offset and size in a tar
        self._file: IO[bytes]  # the tar, unpacked
        if not path.exists():
            raise DataError(f"{path}: does not exist; give {option} an archive or a folder")
        if regular(path).is_dir():
            names = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
            self.names = sorted(name for name in names if not hidden(name))
            return
        try:
            if tarfile.is_tarfile(path):  # first: a tar that ends in a zip would pass for a zip
                self._open_tar(scratch)
            elif zipfile.is_zipfile(path):
                self._open_zip()
            else:
                raise DataError(
                    f"{path}: is neither a folder nor a whole zip or tar archive; if downloaded, download it again"
                )
        except _BROKEN as error:
            self._stack.close()
            raise DataError(f"{path}: is truncated or damaged ({error}); download it again") from error
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
                return regular(self.path / name).read_bytes()
        try:
            if self._zip is not None:
                return self._zip.read(self._members[name])
            offset, size = self._spans[name]
            self._file.seek(offset)
            content = self._file.read(size)
        except _BROKEN as error:
            raise DataError(f"{self.path}: is damaged at {name} ({error}); download it again") from error
        if len(content) != size:
            raise DataError(f"{self.path}: ends inside {name}; download it again")
        return content

    def open(self, name: str) -> BinaryIO:
        """The same as a stream; a file of a folder is not read at once, however large. Raises `DataError`."""
        if self.path.is_dir():
            with guarded(self.path / name):
                return regular(self.path / name).open("rb")
        return io.BytesIO(self.read(name))

    def _open_zip(self) -> None:
        self._zip = self._stack.enter_context(zipfile.ZipFile(self.path))
        total = 0
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
        total = offset = 0
        with tarfile.open(self.path, tarinfo=_Whole) as tar:
            for member in tar:
                name = self._safe(member.name)
                total = self._within(name, member.size, total, len(self._spans))
                if member.isdir():
                    continue
                if not member.isreg() or (content := tar.extractfile(member)) is None:
                    raise DataError(f"{self.path}: member {name} is a link or device; such an archive is not read")
                if hidden(name):
                    continue
                if compressed:
                    with guarded(scratch):
                        shutil.copyfileobj(content, self._file)
                    if self._file.tell() != offset + member.size:
                        raise DataError(f"{self.path}: ends inside {name}; download it again")
                self._spans[name] = (offset if compressed else member.offset_data, member.size)
                offset += member.size
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
