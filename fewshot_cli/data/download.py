"""Downloads that resume, show progress and are checked by SHA-256 before anything reads them."""

import urllib.error
import urllib.request
from pathlib import Path

from fewshot_cli.console import progress, say
from fewshot_cli.errors import DataError
from fewshot_cli.files import guarded, sha256


def fetch(url: str, target: Path, digest: str | None) -> Path:
    """Download `url` to `target`, continuing a partial file. Raises `DataError` with what to do instead.

    Without a known `digest` the SHA-256 found is printed, so that it can be compared.
    """
    if target.exists():
        return _checked(target, digest)
    part = target.with_name(target.name + ".part")
    with guarded(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            resumed = response.status == 206
            length = int(response.headers.get("Content-Length") or 0)
            have = have if resumed else 0
            with guarded(part), part.open("ab" if resumed else "wb") as file, progress(
                f"download {target.name}", have + length or None
            ) as bar:
                bar.update(have)
                while block := response.read(1 << 20):
                    file.write(block)
                    have += len(block)
                    bar.update(have)
            if length and part.stat().st_size < have or (length and not resumed and have != length):
                raise DataError(f"{url}: the connection ended early; run the same command again, it continues")
    except urllib.error.HTTPError as fault:
        if fault.code == 416:  # the partial file is already whole, or not a part of this file
            pass
        else:
            raise DataError(f"{url}: the server answers {fault.code}; download {target.name} yourself and give it by --from") from fault
    except (urllib.error.URLError, TimeoutError, ConnectionError) as fault:
        reason = getattr(fault, "reason", fault)
        raise DataError(f"{url}: cannot be reached ({reason}); download {target.name} yourself and give it by --from") from fault
    _checked(part, digest)
    with guarded(target):
        part.replace(target)
    return target


def _checked(path: Path, digest: str | None) -> Path:
    found = sha256(path)
    if digest is None:
        say(f"{path.name}: sha256 {found} (none published to compare with)")
    elif found != digest:
        path.unlink(missing_ok=True)
        raise DataError(f"{path.name}: SHA-256 is {found}, expected {digest}; it was removed, run the same command again")
    return path
