"""Reading folders and archives that may be hostile: members are read by name, never extracted to a path they choose."""

import errno
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Self, TypeVar

from fewshot_cli.data.kinds import HEAD, litter
from fewshot_cli.data.walk import walk
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.files import explain, guarded, regular

T = TypeVar("T")
Stream = io.BufferedReader | io.BytesIO
_DRIVE = re.compile("[A-Za-z]:")
MAX_MEMBER = 1 << 30  # bytes of one member
MAX_TOTAL = 400 << 30  # bytes of all members together
MAX_RATIO = 1100  # unpacked over packed: DEFLATE cannot exceed 1032
MANY, MANY_RATIO = 100 << 20, 200  # more bytes than that pack so well only when they say nothing
MAX_MEMBERS = 5_000_000
_METHODS = {9: "Deflate64", 97: "WavPack", 98: "PPMd", 93: "Zstandard", 95: "XZ", 96: "JPEG", 1: "Shrink", 6: "Implode"}
_FOREIGN = ((b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07", "rar"), (b"\x28\xb5\x2f\xfd", "Zstandard"))
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

    `option` is the command's option that names the path; `skipped` has, by reason, what is in nobody's way but no file
    of the user's: hidden ones and those of systems. A compressed tar is spooled once, unpacked, to an unnamed temporary
    file in `scratch`, or the system's folder for those where that is read-only. Raises `DataError` for a truncated or
    damaged archive, a member that climbs out of its folder, links and devices, and bombs.
    """

    def __init__(self, path: Path, scratch: Path, option: str = "--from") -> None:
        self.path = path
        self._stack = ExitStack()
        self._zip: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}  # of a zip
        self._spans: dict[str, tuple[int, int]] = {}  # offset and size in a tar
        self._file: IO[bytes]  # the tar, unpacked
        self.names: list[str]
        self.skipped: dict[str, list[str]] = {}
        if not path.exists():
            raise DataError(f"{path}: does not exist; give {option} an archive or a folder")
        if regular(path).is_dir():
            with guarded(path):
                self.names, self.skipped = walk(path)
            return
        self._refuse_foreign()
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
            self.close()
            raise DataError(f"{path}: is truncated or damaged ({error}); download it again") from error
        except BaseException:
            self.close()
            raise

    def _refuse_foreign(self) -> None:
        with guarded(self.path), self.path.open("rb") as file:
            head = file.read(8)
        for signature, name in _FOREIGN:
            if head.startswith(signature):
                raise DataError(f"{self.path}: is a {name} archive, which is not read; unpack it and give the folder")

    def close(self) -> None:
        """Close the archive; what was spooled is gone."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, name: str) -> bytes:
        """Content of one file. Raises `DataError` when the archive is damaged there."""
        if self.path.is_dir():
            with guarded(self.path / name):
                return regular(self.path / name).read_bytes()
        try:
            if self._zip is not None:
                return self._zip.read(self._members[name])
            offset, size = self._spans[name]
            content = os.pread(self._file.fileno(), size, offset)  # several threads may
            while len(content) < size and (
                more := os.pread(self._file.fileno(), size - len(content), offset + len(content))
            ):
                content += more  # the system gives at most 2 GiB at once
        except _BROKEN as error:
            raise DataError(f"{self.path}: is damaged at {name} ({error}); download it again") from error
        if len(content) != size:
            raise DataError(f"{self.path}: ends inside {name}; download it again")
        return content

    def open(self, name: str) -> Stream:
        """The same as a stream; a file of a folder is not read at once, however large. Raises `DataError`."""
        if self.path.is_dir():
            with guarded(self.path / name):
                return regular(self.path / name).open("rb")
        return io.BytesIO(self.read(name))

    def head(self, name: str) -> bytes:
        """The first `HEAD` bytes of a file. Raises `DataError` when the archive is damaged there."""
        if self._zip is None and not self.path.is_dir():
            offset, size = self._spans[name]
            return os.pread(self._file.fileno(), min(size, HEAD), offset)
        if self._zip is None:
            with self.open(name) as file, guarded(self.path / name):
                return file.read(HEAD)
        try:
            with self._zip.open(self._members[name]) as member:
                return member.read(HEAD)
        except _BROKEN as error:
            raise DataError(f"{self.path}: is damaged at {name} ({error}); download it again") from error

    def _open_zip(self) -> None:
        self._zip = self._stack.enter_context(zipfile.ZipFile(self.path))
        total = 0
        for info in self._zip.infolist():
            name = self._safe(info.filename)
            total = self._within(name, info.file_size, total, len(self._members))
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(f"{self.path}: member {name} is a link or device; such an archive is not read")
            if info.flag_bits & 1:
                raise DataError(f"{self.path}: needs a password; unpack it and give the folder")
            if info.compress_type in _METHODS:
                raise DataError(
                    f"{self.path}: is packed by {_METHODS[info.compress_type]}, which is not read; unpack it with "
                    "another program and give the folder"
                )
            if not info.is_dir() and self._wanted(name):
                self._add(name, self._members, info)
        self.names = sorted(self._members)

    def _open_tar(self, scratch: Path) -> None:
        with self.path.open("rb") as file:
            packed = file.read(6)
        compressed = packed[:2] == b"\x1f\x8b" or packed[:3] == b"BZh" or packed[:6] == b"\xfd7zXZ\x00"
        if compressed:
            self._file = self._stack.enter_context(_temporary(scratch))
        else:
            self._file = self._stack.enter_context(self.path.open("rb"))
        total = offset = 0
        with tarfile.open(self.path, tarinfo=_Whole) as tar:
            for member in tar:
                name = self._safe(member.name)
                total = self._within(name, member.size, total, len(self._spans))
                if member.isdir():
                    continue
                if member.islnk() and member.linkname in self._spans:  # the same file by another name
                    self._add(name, self._spans, self._spans[member.linkname])
                    continue
                if member.issparse() and not compressed:
                    raise DataError(f"{self.path}: member {name} is stored with holes; pack it again without --sparse")
                if not member.isreg() or (content := tar.extractfile(member)) is None:
                    raise DataError(f"{self.path}: member {name} is a link or device; such an archive is not read")
                if not self._wanted(name):
                    continue
                if compressed:
                    with guarded(scratch):
                        shutil.copyfileobj(content, self._file)
                    if self._file.tell() != offset + member.size:
                        raise DataError(f"{self.path}: ends inside {name}; download it again")
                self._add(name, self._spans, (offset if compressed else member.offset_data, member.size))
                offset += member.size
            while tar.fileobj.read(1 << 20):  # to the end, where the compressor's checksum is
                pass
        if compressed:
            with guarded(scratch):
                self._file.flush()
        self.names = sorted(self._spans)

    def _add(self, name: str, members: dict[str, T], member: T) -> None:
        """Enter a member; of two with one name the later one counts, as for every program that unpacks."""
        if name in members:
            self.skipped.setdefault("replaced by a later file of the same name", []).append(name)
        members[name] = member

    def _wanted(self, name: str) -> bool:
        reason = litter(name)
        if reason:
            self.skipped.setdefault(reason, []).append(name)
        return reason is None

    def _safe(self, name: str) -> str:
        pure = PurePosixPath(name.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or (pure.parts and _DRIVE.fullmatch(pure.parts[0])):
            raise DataError(f"{self.path}: member {name!r} climbs out of its folder; such an archive is not read")
        return pure.as_posix()

    def _within(self, name: str, size: int, total: int, count: int) -> int:
        total, packed = total + size, self.path.stat().st_size
        ratio = MANY_RATIO if total > MANY else MAX_RATIO
        if size > MAX_MEMBER or total > MAX_TOTAL or total > ratio * packed + (1 << 20) or count > MAX_MEMBERS:
            raise DataError(
                f"{self.path}: member {name} would unpack to {total:,} bytes from {packed:,}: a bomb; not read "
                "(if you trust it, unpack it and give the folder)"
            )
        return total


def _temporary(folder: Path) -> IO[bytes]:
    """A file without a name in a folder, or in the system's own for those where it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DataError(explain(error, folder)) from error
    with guarded(tempfile.gettempdir()):
        return tempfile.TemporaryFile()
