"""Downloads from a server on this machine that does everything wrong, tried until they succeed or are refused.

    python benchmarks/reliability/server.py [--tries 300]

The server picks at random for each request: whole, cut off, another length than sent, ranges ignored or shifted, busy,
moved, a page, nothing, a header that is none. A fault: a file that gets its name and is not the one on the server, an
exception that is no sentence, or no success within 40 tries. Prints JSON.
"""

import hashlib
import io
import random
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from world import campaign, options, report

from fewshot_cli.data import download
from fewshot_cli.errors import FslError

MISDEEDS = (
    "whole",
    "whole",
    "cut off",
    "too long",
    "ignores ranges",
    "shifts ranges",
    "busy",
    "moved",
    "page",
    "nothing",
    "bad header",
    "chatter",
)


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for i in range(4):
            made.writestr(f"a/{i}.png", random.Random(i).randbytes(40_000))
    return content.getvalue()


BODY = archive()


class Server(BaseHTTPRequestHandler):
    """Answers each request in another way, drawn from the server's own random numbers."""

    def do_GET(self) -> None:
        rng: random.Random = self.server.rng  # type: ignore[attr-defined]
        how = rng.choice(MISDEEDS)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted and how != "ignores ranges" else 0
        body = BODY[start:]
        if how == "chatter":
            self.wfile.write(b"good morning\r\n\r\n")
        elif how == "busy":
            self.send_response(rng.choice(download.BUSY))
            self.send_header("Retry-After", rng.choice(["0", "soon", "-3", "1e9"]))
            self.end_headers()
        elif how == "moved":
            self.send_response(302)
            self.send_header("Location", rng.choice(["/file", "file:///etc/passwd", "http://[", "/x" * 40_000]))
            self.end_headers()
        elif how in ("page", "nothing"):
            self.answer(200, b"<html>please sign in</html>" if how == "page" else b"", None)
        elif wanted and start >= len(BODY) and how != "ignores ranges":
            self.answer(416, b"", None)
        else:
            span = start + (7 if how == "shifts ranges" else 0)
            status = 206 if wanted and how != "ignores ranges" else 200
            length = {"too long": len(body) + 999, "bad header": "many"}.get(how, len(body))
            sent = body[: rng.randrange(len(body) + 1)] if how == "cut off" else body
            self.answer(status, sent, f"bytes {span}-{len(BODY) - 1}/{len(BODY)}" if status == 206 else None, length)
        self.close_connection = True

    def answer(self, status: int, body: bytes, span: str | None, length: object = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def trial(rng: random.Random, folder: Path) -> str | None:
    digest = rng.choice([None, hashlib.sha256(BODY).hexdigest(), "md5:" + hashlib.md5(BODY).hexdigest()])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.rng = rng  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        for _ in range(40):
            try:
                path = download.fetch(f"http://127.0.0.1:{server.server_port}/file", folder / "f.zip", digest)
            except FslError:
                continue
            except BaseException as error:
                return f"{type(error).__name__}: {error}"
            return None if path.read_bytes() == BODY else "another file got the name"
        return "no success in 40 tries"
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    given = options(__doc__, 300)
    download._sleep = lambda seconds: None
    with TemporaryDirectory() as folder:
        report("downloads", campaign([("server", trial)], given.tries, given.seed, Path(folder)))


if __name__ == "__main__":
    main()
