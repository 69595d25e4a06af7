"""Downloads that resume, show progress, wait for a busy server, and are checked before anything reads them."""

import hashlib
import http.client
import re
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import IO

from fewshot_cli.data.archive import Source
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.bars import Bar
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.files import guarded

BUSY = (429, 500, 502, 503, 504)  # answers that another try may change
TRIES, LONGEST_WAIT = 5, 60.0  # seconds between two tries, whatever the server asks for
SLOWEST, PATIENCE = 1024, 60.0  # bytes per second, on average over so many seconds
_clock, _sleep = time.monotonic, time.sleep


def fetch(url: str, target: Path, digest: str | None) -> Path:
    """Download `url` to `target`, continuing a partial file. Raises `DataError` with what to do instead.

    `digest` is a SHA-256, or an MD5 as `md5:…` where nothing else is published. Without one the file's SHA-256 is
    printed, so that it can be compared, and an archive must be whole.
    """
    if target.exists():
        return _checked(target, digest, target.name)
    part = target.with_name(target.name + ".part")
    with guarded(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    by_hand = f"download {target.name} yourself and give it by --from"
    try:
        for left in reversed(range(TRIES)):
            try:
                _receive(url, part, target.name)
                break
            except urllib.error.HTTPError as error:
                if error.code == 416 and part.exists():  # the server has nothing beyond the part
                    if digest is not None:
                        break
                    part.unlink()  # and without a digest nobody can say that it is whole
                    raise DataError(
                        f"{url}: the partial {part.name} does not belong to it and was removed; "
                        "run the same command again"
                    ) from error
                if error.code not in BUSY or left == 0:
                    raise DataError(f"{url}: the server answers {error.code}; {by_hand}") from error
                wait = _wait(error.headers, TRIES - left)
                say(f"{url}: the server answers {error.code}; trying again in {wait:.0f} s")
                _sleep(wait)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an address that is none
        raise DataError(f"{url}: cannot be reached ({getattr(error, 'reason', error)}); {by_hand}") from error
    _checked(part, digest, target.name)
    with guarded(target):
        part.replace(target)
    return target


def _receive(url: str, part: Path, name: str) -> None:
    """Append what the server has beyond `part`, or write all of it anew where it does not take up there."""
    with guarded(part):
        have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE) as response:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DataError(f"{url}: the server sends it compressed once more; download {name} yourself")
        length = _number(response.headers, "Content-Length", url)
        resumed = response.status == 206
        if resumed and not re.match(rf"bytes {have}-", response.headers.get("Content-Range", "")):
            part.unlink(missing_ok=True)  # another piece than was asked for
            raise DataError(
                f"{url}: the server does not continue where the partial file ends, so {part.name} was removed; "
                "run the same command again"
            )
        have = have if resumed else 0
        whole = None if length is None else have + length
        with progress(f"download {name}", whole) as bar, _opened(part, "ab" if resumed else "wb") as file:
            have = _copy(response, file, part, have, bar, url)
        if whole is not None and have != whole:
            raise DataError(f"{url}: the connection ended early; run the same command again, it continues")


def _copy(response: http.client.HTTPResponse, file: IO[bytes], part: Path, have: int, bar: Bar, url: str) -> int:
    """Write what arrives; returns the length of the file. Raises `DataError` when next to nothing does."""
    since, then = _clock(), have
    while block := response.read1(1 << 20):
        with guarded(part):
            file.write(block)
        have += len(block)
        bar.update(have)
        if (spent := _clock() - since) >= PATIENCE:
            if have - then < SLOWEST * spent:
                raise DataError(
                    f"{url}: {have - then:,} bytes arrived in the last {spent:.0f} s; run the same command again "
                    "later, it continues"
                )
            since, then = _clock(), have
    return have


def _number(headers: Message, name: str, url: str) -> int | None:
    """A header's whole number, or None without the header. Raises `DataError` when it is something else."""
    if (text := headers.get(name)) is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise DataError(f"{url}: the server's header {name} is {text[:40]!r}, not a number; try another network")
    return int(text)


def _wait(headers: Message, tried: int) -> float:
    """Seconds until the next try: what `Retry-After` asks for in seconds, else 1, 2, 4, …"""
    asked = headers.get("Retry-After", "").strip()
    return min(float(asked) if re.fullmatch(r"[0-9]{1,9}", asked) else 2.0 ** (tried - 1), LONGEST_WAIT)


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[IO[bytes]]:
    """An open file; errors are those of the disk only while it is opened and closed."""
    with guarded(path):
        file = path.open(mode)
    try:
        yield file
    finally:
        with guarded(path):
            file.close()


def _checked(path: Path, digest: str | None, name: str) -> Path:
    """The path of a file that is what it should be; another one is removed, with a `DataError`.

    `name` is the file's final one, which says what kind of archive it is.
    """
    kind, expected = digest.split(":") if digest and ":" in digest else ("sha256", digest)
    with guarded(path), path.open("rb") as file:
        actual = hashlib.file_digest(file, kind).hexdigest()
    if expected is None:
        try:
            _check_archive(path, name)
        except DataError as error:
            path.unlink(missing_ok=True)
            raise DataError(
                f"{name}: what was downloaded is no whole archive and was removed; run the same command again, and if "
                "that does not help, download it yourself and give it by --from"
            ) from error
        say(f"{name}: sha256 {actual} (none published to compare with)")
    elif actual != expected:
        path.unlink(missing_ok=True)
        title = {"sha256": "SHA-256", "md5": "MD5"}[kind]
        raise DataError(f"{name}: {title} is {actual}, expected {expected}; it was removed, run the same command again")
    return path


def _check_archive(path: Path, name: str) -> None:
    """Read every member of an archive, whose checksums tell. Raises `DataError` when it is not whole.

    What does not have an archive's name only has to hold something.
    """
    if not re.search(r"\.(zip|tar|tgz|tar\.(gz|bz2|xz))$", name):
        if path.stat().st_size == 0:
            raise DataError(f"{name}: is empty")
        return
    if tarfile.is_tarfile(path) != (not name.endswith(".zip")):
        raise DataError(f"{name}: is another kind of file")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, Source(path, Path(scratch)) as files:
        for member in files.names:
            files.read(member)
