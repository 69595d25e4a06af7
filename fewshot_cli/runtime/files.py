"""Writing so that a half-written file is never taken for a whole one."""

import glob
import hashlib
import json
import os
import platform
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.errors import DataError
from fewshot_cli.runtime import stop_points

if TYPE_CHECKING:
    from filelock import FileLock


def explain(error: OSError, path: Path | str) -> str:
    """One sentence for an operating-system error while writing at `path`."""
    import errno

    reasons = {
        errno.ENOSPC: "the disk is full; free some space or choose another folder (--data-root, --run-dir)",
        errno.EROFS: "the file system is read-only; choose another folder (--data-root, --run-dir)",
        errno.EACCES: "permission denied; choose another folder (--data-root, --run-dir) or change its permissions",
        errno.EPERM: "permission denied; choose another folder (--data-root, --run-dir) or change its permissions",
        errno.EEXIST: "a file of this name is in the way of a folder; remove it or choose another folder",
        errno.ENOTDIR: "a part of this path is a file, not a folder; choose another folder",
        errno.ENAMETOOLONG: "the name is longer than the system allows; choose a shorter one",
        errno.EMFILE: "too many files are open in this process; raise the limit (ulimit -n)",
        errno.ENFILE: "too many files are open on this machine; close some programs",
        errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    }
    return f"{path}: {reasons.get(error.errno or 0, error.strerror or str(error))}"


@contextmanager
def guarded(path: Path | str) -> Iterator[None]:
    """Turn an `OSError` in the block into a `DataError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise DataError(explain(error, path)) from error


def regular(path: Path) -> Path:
    """The path, unless it leads to a FIFO, a socket or a device, which might be waited for without an end: that is a
    `DataError`.
    """
    with guarded(path):
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{path}: is a FIFO, socket or device, not a file; copy its content to a file and give that")
    return path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the same folder; on success it is synced and renamed to `path`, else removed.

    Raises `DataError` when the disk refuses.
    """
    with guarded(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.chmod(0o644)
            part.replace(path)
            stop_points.written(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Only one process of this user at a time is in the block for `path`; others wait.

    The lock lies in the user's cache folder, so that nothing is left beside `path`. Where none can be made the block
    runs without: what is written there is still renamed into place whole.
    """
    lock = _lock(path)
    try:
        _acquire(lock)
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def hold(path: Path) -> Callable[[], None]:
    """Keep `path` for this process, and return what gives it free again. Raises `DataError` when another one has it.

    As in `exclusive`, without a lock where none can be made.
    """
    from filelock import Timeout

    lock = _lock(path)
    try:
        _acquire(lock, 0)
        with suppress(OSError):
            _note_of(lock).write_text(f"process {os.getpid()} on {platform.node()}", "utf-8")
    except Timeout as error:
        raise DataError(f"{path}: is in use by {_owner(lock)}; wait for it, or choose another --run-dir") from error
    except (OSError, NotImplementedError):
        return lambda: None
    return lock.release


def held_by(path: Path) -> str | None:
    """Who keeps `path` by `hold`, in words; None when nobody does or where that cannot be told."""
    from filelock import Timeout

    lock = _lock(path)
    if not Path(lock.lock_file).exists():
        return None
    try:
        _acquire(lock, 0)
    except Timeout:
        return _owner(lock)
    except (OSError, NotImplementedError):
        return None
    lock.release()
    return None


def _owner(lock: "FileLock") -> str:
    """Who has a lock, as they have written beside it."""
    try:
        return _note_of(lock).read_text("utf-8")
    except OSError:
        return "another process"


def _note_of(lock: "FileLock") -> Path:
    return Path(lock.lock_file).with_suffix(".owner")


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A new hidden folder beside a path, removed at the end; those that killed processes have left there go first.

    Whose owner is gone is told by a lock, which is known to this user on this machine alone; others' are left. Raises
    `DataError` when the disk refuses.
    """
    with guarded(beside.parent):
        beside.parent.mkdir(parents=True, exist_ok=True)
        mine = f".{beside.name}.{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}."
        for old in beside.parent.glob(f"{glob.escape(mine)}*.part"):
            if old.stat().st_uid == os.getuid() and _abandoned(old):
                shutil.rmtree(old, ignore_errors=True)
        folder = beside.parent / f"{mine}{secrets.token_hex(4)}.part"
        release = hold(folder)  # before it is there, so that nobody takes it for abandoned
    try:
        with guarded(folder):
            folder.mkdir(mode=0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        release()


def _abandoned(path: Path) -> bool:
    """Whether nobody holds a path; False where that cannot be told."""
    from filelock import Timeout

    lock = _lock(path)
    try:
        _acquire(lock, 0)
    except (Timeout, OSError, NotImplementedError):
        return False
    lock.release()
    return True


def _acquire(lock: "FileLock", timeout: float = -1) -> None:
    """Take a lock, waiting so many seconds for it, or as long as it takes."""
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    lock.acquire(timeout=timeout)


def _lock(path: Path) -> "FileLock":
    from filelock import FileLock
    from platformdirs import user_cache_path

    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
    return FileLock(user_cache_path("fsl", appauthor=False) / "locks" / f"{name}.lock", thread_local=False)


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with atomic(path) as part:
        part.write_text(text, "utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, indented, keys in the order given."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


_SEAL = b"fsl, sealed\n"  # then the SHA-256 of what follows it


def write_sealed(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically with the digest of its content, which `read_sealed` checks."""
    with atomic(path) as part, part.open("wb") as file:
        file.write(_SEAL + hashlib.sha256(content).digest())
        file.write(content)


def read_sealed(path: Path) -> bytes:
    """What `write_sealed` wrote; a file without a seal, of an earlier version, as it is. Raises `ValueError` when the
    content is not what was written.
    """
    with guarded(path):
        whole = regular(path).read_bytes()
    if not whole.startswith(_SEAL):
        return whole
    digest, content = whole[len(_SEAL) : len(_SEAL) + 32], whole[len(_SEAL) + 32 :]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its SHA-256 is another one")
    return content


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
