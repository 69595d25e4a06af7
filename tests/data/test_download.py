"""Downloads against a server on this machine: whole, resumed, wrong, missing and cut off."""

import hashlib
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

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
