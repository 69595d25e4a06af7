"""Downloads that resume, show progress and are checked by SHA-256 before anything reads them."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.files import guarded, sha256


def fetch(url: str, target: Path, digest: str | None) -> Path:
    """Download `url` to `target`, continuing a partial file. Raises `DataError` with what to do instead.

    Without a known `digest` the file's SHA-256 is printed, so that it can be compared.
    """
    if target.exists():
        return _checked(target, digest)
    part = target.with_name(target.name + ".part")
    with guarded(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    by_hand = f"download {target.name} yourself and give it by --from"
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            resumed = response.status == 206
            have = have if resumed else 0
            length = int(response.headers.get("Content-Length") or 0)
            whole = have + length
            with (
                progress(f"download {target.name}", whole or None) as bar,
                _opened(part, "ab" if resumed else "wb") as file,
            ):
                while block := response.read(1 << 20):
                    with guarded(part):
                        file.write(block)
                    have += len(block)
                    bar.update(have)
            if length and have != whole:
                raise DataError(f"{url}: the connection ended early; run the same command again, it continues")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the server has nothing beyond the part: without a digest nobody can say it is whole
            if digest is None:
                part.unlink(missing_ok=True)
                raise DataError(
                    f"{url}: the partial {part.name} does not belong to it and was removed; run the same command again"
                ) from error
        else:
            raise DataError(f"{url}: the server answers {error.code}; {by_hand}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise DataError(f"{url}: cannot be reached ({getattr(error, 'reason', error)}); {by_hand}") from error
    _checked(part, digest)
    with guarded(target):
        part.replace(target)
    return target


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


def _checked(path: Path, digest: str | None) -> Path:
    actual = sha256(path)
    if digest is None:
        say(f"{path.name}: sha256 {actual} (none published to compare with)")
    elif actual != digest:
        path.unlink(missing_ok=True)
        raise DataError(
            f"{path.name}: SHA-256 is {actual}, expected {digest}; it was removed, run the same command again"
        )
    return path
