"""Downloads against a server on this machine: whole, resumed, wrong, missing and cut off."""

import hashlib
import io
import os
import random
import re
import socket
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fewshot_cli.data import download
from fewshot_cli.data.download import fetch
from fewshot_cli.errors import DataError

BODY = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Plain(BaseHTTPRequestHandler):
    """Sends BODY from its beginning, whatever was asked."""

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        if self.path != "/file":
            return self.send_error(404)
        return self.answer(200, BODY)

    def answer(self, status: int, body: bytes, send: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:send])

    def log_message(self, *_: object) -> None:
        pass


class Ranged(Plain):
    """Understands `Range: bytes=N-`."""

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if not wanted:
            return super().do_GET()
        self.server.asked.append(wanted[0])
        start = int(wanted[1])
        return self.answer(206, BODY[start:]) if start < len(BODY) else self.answer(416, b"")

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(code, message)
        if code == 206 and type(self) is not Elsewhere:
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")


class CutsOff(Ranged):
    """Ends every answer after 1000 bytes."""

    def answer(self, status: int, body: bytes, send: int | None = None) -> None:
        super().answer(status, body, 1000)
        self.close_connection = True


class CutsOffChunks(Plain):
    """Ends a chunked answer inside a chunk."""

    def do_GET(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"ffff\r\nabc")
        self.close_connection = True


class Babbles(Plain):
    """Answers with something that is not HTTP."""

    def do_GET(self) -> None:
        self.wfile.write(b"good morning\r\n\r\n")
        self.close_connection = True


class Busy(Ranged):
    """Is overloaded twice, and says once how long that takes."""

    def do_GET(self) -> None:
        if len(self.server.asked) >= 2:
            return super().do_GET()
        self.server.asked.append("busy")
        self.send_response(503 if len(self.server.asked) == 1 else 429)
        if len(self.server.asked) == 2:
            self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "0")
        return self.end_headers()


class AlwaysBusy(Plain):
    def do_GET(self) -> None:
        self.server.asked.append("busy")
        self.send_error(503)


class Elsewhere(Ranged):
    """Answers a range with another one."""

    def do_GET(self) -> None:
        super().do_GET()

    def answer(self, status: int, body: bytes, send: int | None = None) -> None:
        if status != 206:
            return super().answer(status, body)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes 5-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None


class Page(Plain):
    """A sign-in page in place of the file, as a hotel's network answers."""

    body = b"<!DOCTYPE html><html><body>Please sign in</body></html>"

    def do_GET(self) -> None:
        self.answer(200, self.body)


class Nothing(Page):
    body = b""


class BadLength(Plain):
    """Answers with a header that makes no sense."""

    header = ("Content-Length", "12 apples")

    def answer(self, status: int, body: bytes, send: int | None = None) -> None:
        self.send_response(status)
        self.send_header(*self.header)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


class Compressed(BadLength):
    header = ("Content-Encoding", "gzip")


@pytest.fixture
def serve():
    servers = []

    def start(handler: type) -> tuple[str, list]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/file", server.asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: tuple) -> None:
        assert address[0] == "127.0.0.1", address
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.mark.parametrize("handler", [Plain, Ranged])
def test_a_download_is_whole_and_leaves_no_part(serve, tmp_path, handler):
    url, asked = serve(handler)
    target = tmp_path / "new" / "folder" / "f.bin"
    assert fetch(url, target, DIGEST) == target
    assert target.read_bytes() == BODY and asked == [None]
    assert [p.name for p in target.parent.iterdir()] == ["f.bin"]


def test_a_part_is_continued_by_a_range(serve, tmp_path):
    url, asked = serve(Ranged)
    (tmp_path / "f.bin.part").write_bytes(BODY[:700_001])
    fetch(url, tmp_path / "f.bin", DIGEST)
    assert asked == ["bytes=700001-"]
    assert (tmp_path / "f.bin").read_bytes() == BODY and not (tmp_path / "f.bin.part").exists()


def test_a_server_without_ranges_sends_all_again(serve, tmp_path):
    url, asked = serve(Plain)
    (tmp_path / "f.bin.part").write_bytes(b"old" * 100)
    fetch(url, tmp_path / "f.bin", DIGEST)
    assert asked == ["bytes=300-"] and (tmp_path / "f.bin").read_bytes() == BODY


def test_a_part_that_is_already_whole_is_taken(serve, tmp_path):
    url, asked = serve(Ranged)
    (tmp_path / "f.bin.part").write_bytes(BODY)
    fetch(url, tmp_path / "f.bin", DIGEST)
    assert asked == [f"bytes={len(BODY)}-"] and (tmp_path / "f.bin").read_bytes() == BODY


def test_a_file_that_is_there_is_not_downloaded_again(serve, tmp_path):
    url, asked = serve(Plain)
    (tmp_path / "f.bin").write_bytes(BODY)
    fetch(url, tmp_path / "f.bin", DIGEST)
    assert asked == []


@pytest.mark.parametrize("where", ["server", "part", "target"])
def test_other_bytes_than_published_are_refused_and_removed(serve, tmp_path, where):
    url, _ = serve(Ranged)
    digest = hashlib.sha256(b"published").hexdigest() if where == "server" else DIGEST
    if where == "part":
        (tmp_path / "f.bin.part").write_bytes(b"?" * 1000)
    if where == "target":
        (tmp_path / "f.bin").write_bytes(b"?" * 1000)
    with pytest.raises(DataError, match=f"SHA-256 is [0-9a-f]+, expected {digest}; it was removed"):
        fetch(url, tmp_path / "f.bin", digest)
    assert list(tmp_path.iterdir()) == []


def test_without_a_published_hash_the_one_found_is_said(serve, tmp_path, capsys):
    url, _ = serve(Plain)
    fetch(url, tmp_path / "f.bin", None)
    assert f"sha256 {DIGEST} (none published" in capsys.readouterr().err


def test_a_missing_file_names_the_way_out(serve, tmp_path):
    url, _ = serve(Plain)
    with pytest.raises(DataError, match="/no: the server answers 404; download f.bin yourself and give it by --from"):
        fetch(url.replace("/file", "/no"), tmp_path / "f.bin", DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_connection_names_the_way_out(tmp_path):
    with socket.socket() as bound:  # bound but not listening: nobody else can answer there
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/file"
        with pytest.raises(DataError, match="cannot be reached .*refused.*--from"):
            fetch(url, tmp_path / "f.bin", DIGEST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", [DIGEST, None])
@pytest.mark.parametrize("have", [0, 5000])
def test_a_connection_cut_off_keeps_the_part_to_continue_from(serve, tmp_path, digest, have):
    url, _ = serve(CutsOff)
    if have:
        (tmp_path / "f.bin.part").write_bytes(BODY[:have])
    with pytest.raises(DataError, match="ended early; run the same command again, it continues"):
        fetch(url, tmp_path / "f.bin", digest)
    assert not (tmp_path / "f.bin").exists()
    assert (tmp_path / "f.bin.part").read_bytes() == BODY[: have + 1000]


@pytest.mark.parametrize("handler", [CutsOffChunks, Babbles])
def test_a_server_that_breaks_the_protocol_is_a_sentence(serve, tmp_path, handler):
    url, _ = serve(handler)
    with pytest.raises(DataError, match=re.escape(url)):
        fetch(url, tmp_path / "f.bin", DIGEST)
    assert not (tmp_path / "f.bin").exists()


def test_a_folder_that_cannot_be_made_is_named(serve, tmp_path):
    url, asked = serve(Plain)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a part of this path is a file"):
        fetch(url, tmp_path / "file" / "folder" / "f.bin", DIGEST)
    assert asked == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_a_sentence(serve, tmp_path):
    url, _ = serve(Plain)
    (tmp_path / "f.bin.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match="the disk is full"):
        fetch(url, tmp_path / "f.bin", DIGEST)
    assert not (tmp_path / "f.bin").exists()


def test_a_busy_server_is_asked_again_after_the_time_it_names(serve, tmp_path, monkeypatch, capsys):
    waits: list[float] = []
    monkeypatch.setattr(download, "_sleep", waits.append)
    url, asked = serve(Busy)
    assert fetch(url, tmp_path / "f.bin", DIGEST).read_bytes() == BODY
    assert waits == [1.0, 7.0] and asked[:2] == ["busy", "busy"]
    assert "the server answers 503; trying again in 1 s" in capsys.readouterr().err


def test_a_server_that_stays_busy_is_named(serve, tmp_path, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(download, "_sleep", waits.append)
    url, asked = serve(AlwaysBusy)
    with pytest.raises(DataError, match="the server answers 503; download f.bin yourself"):
        fetch(url, tmp_path / "f.bin", DIGEST)
    assert waits == [1.0, 2.0, 4.0, 8.0] and len(asked) == 5


def test_another_range_than_asked_for_is_never_appended(serve, tmp_path):
    url, _ = serve(Elsewhere)
    (tmp_path / "f.bin.part").write_bytes(BODY[:1000])
    with pytest.raises(DataError, match="does not continue where the partial file ends, so f.bin.part was removed"):
        fetch(url, tmp_path / "f.bin", DIGEST)
    assert list(tmp_path.iterdir()) == []
    assert fetch(url, tmp_path / "f.bin", DIGEST).read_bytes() == BODY


def archive(kind: str) -> bytes:
    """A small archive whose members hold noise, so that a changed byte changes them."""
    content, noise = io.BytesIO(), random.Random(3).randbytes(3000)
    if kind == "f.zip":
        with zipfile.ZipFile(content, "w") as made:
            made.writestr("a/b.png", noise)
    else:
        with tarfile.open(fileobj=content, mode="w:gz") as made:
            member = tarfile.TarInfo("a/b.png")
            member.size = len(noise)
            made.addfile(member, io.BytesIO(noise))
    return content.getvalue()


@pytest.mark.parametrize("kind", ["f.zip", "f.tar.gz"])
@pytest.mark.parametrize("what", ["a page", "nothing", "half", "a changed byte", "another kind", "another file's part"])
def test_without_a_published_hash_an_archive_is_read_before_it_gets_its_name(serve, tmp_path, monkeypatch, kind, what):
    good = archive(kind)
    spoiled = {
        "a page": Page.body,
        "nothing": b"",
        "half": good[: len(good) // 2],
        "a changed byte": good[:500] + bytes([good[500] ^ 1]) + good[501:],
        "another kind": archive({"f.zip": "f.tar.gz", "f.tar.gz": "f.zip"}[kind]),
        "another file's part": random.Random(4).randbytes(700) + good[700:],
    }[what]
    for body, fine in ((spoiled, False), (good, True)):
        monkeypatch.setattr(Page, "body", body)
        url, _ = serve(Page)
        target = tmp_path / kind
        if fine:
            assert fetch(url, target, None).read_bytes() == good
        else:
            with pytest.raises(DataError, match="is no whole archive and was removed"):
                fetch(url, target, None)
            assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", [None, DIGEST])
def test_an_empty_answer_is_no_file(serve, tmp_path, digest):
    url, _ = serve(Nothing)
    with pytest.raises(DataError, match="was removed"):
        fetch(url, tmp_path / "f.bin", digest)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("handler", "words"), [(BadLength, "header Content-Length is '12 apples'"), (Compressed, "compressed once more")]
)
def test_a_header_that_makes_no_sense_is_a_sentence(serve, tmp_path, handler, words):
    url, _ = serve(handler)
    with pytest.raises(DataError, match=words):
        fetch(url, tmp_path / "f.bin", DIGEST)
    assert not (tmp_path / "f.bin").exists()


def test_a_transfer_that_all_but_stops_ends_with_a_sentence(serve, tmp_path, monkeypatch):
    """The clock runs a minute for each piece; a transfer at a usual speed is not touched by it."""
    url, _ = serve(Ranged)
    ticks = iter(range(0, 10**6, 61))
    monkeypatch.setattr(download, "_clock", lambda: next(ticks))
    monkeypatch.setattr(download, "SLOWEST", 10**9)
    with pytest.raises(DataError, match=r"bytes arrived in the last 61 s; run the same command again later"):
        fetch(url, tmp_path / "f.bin", DIGEST)
    assert (tmp_path / "f.bin.part").stat().st_size > 0
    monkeypatch.setattr(download, "SLOWEST", 1)
    assert fetch(url, tmp_path / "f.bin", DIGEST).read_bytes() == BODY


def test_an_md5_is_compared_where_nothing_else_is_published(serve, tmp_path):
    url, _ = serve(Plain)
    assert fetch(url, tmp_path / "f.bin", f"md5:{hashlib.md5(BODY).hexdigest()}").read_bytes() == BODY
    with pytest.raises(DataError, match="MD5 is [0-9a-f]{32}, expected 0{32}; it was removed"):
        fetch(url, tmp_path / "f.bin", f"md5:{'0' * 32}")


def test_an_address_that_is_none_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="cannot be reached"):
        fetch("http://127.0.0.1:99999999/f", tmp_path / "f.bin", DIGEST)
    with pytest.raises(DataError, match="cannot be reached"):
        fetch("no address", tmp_path / "f.bin", DIGEST)
