"""Reading archives: the same files from every kind, and none of the hostile or damaged ones."""

import bz2
import errno
import io
import lzma
import os
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from fewshot_cli.data import archive
from fewshot_cli.data.archive import Source
from fewshot_cli.errors import DataError

FILES = {"a/1.txt": b"one" * 300, "a/2.txt": b"", "b/deep/3.bin": bytes(range(256)) * 10, "top": b"x"}
KINDS = ["folder", "zip", "stored.zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def pack(path: Path, kind: str, files: dict[str, bytes] = FILES) -> Path:
    if kind == "folder":
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif kind.endswith("zip"):
        method = zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as out:
            out.writestr("a/", b"")
            for name, data in files.items():
                out.writestr(name, data)
    else:
        with tarfile.open(path, "w" + kind.removeprefix("tar").replace(".", ":")) as out:
            folder = tarfile.TarInfo("a")
            folder.type = tarfile.DIRTYPE
            out.addfile(folder)
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return path


def everything(path: Path, scratch: Path) -> dict[str, bytes]:
    with Source(path, scratch) as files:
        return {name: files.read(name) for name in files.names}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_files_whatever_its_name(tmp_path, kind):
    path = pack(tmp_path / "no_telling_suffix", kind)
    with Source(path, tmp_path / "scratch") as files:
        assert files.names == sorted(FILES)
        for name in reversed(files.names):
            assert files.read(name) == FILES[name]
            with files.open(name) as stream:
                assert stream.read() == FILES[name]
    assert not list((tmp_path / "scratch").glob("*")) and set(tmp_path.iterdir()) <= {path, tmp_path / "scratch"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_names_beginning_with_a_dot_folder_are_the_same_names(tmp_path, kind):
    path = pack(tmp_path / "x", kind, {f"./{name}": data for name, data in FILES.items()})
    assert everything(path, tmp_path) == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_files_are_left_out_of_every_kind(tmp_path, kind):
    hidden = {
        "a/._1.txt": b"resource fork",
        "__MACOSX/a/._1.txt": b"resource fork",
        ".git/config": b"",
        ".DS_Store": b"",
    }
    path = pack(tmp_path / "x", kind, FILES | hidden)
    assert everything(path, tmp_path / "scratch") == FILES


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "a/..", "/etc/x", "..\\x", "a\\..\\..\\x", "C:\\x", "C:/x", "\\x"]
)
def test_a_member_that_climbs_is_refused(tmp_path, kind, name):
    path = pack(tmp_path / "x", kind, {"fine": b"1", name: b"2"})
    with pytest.raises(DataError, match="climbs out of its folder"):
        Source(path, tmp_path)


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
@pytest.mark.parametrize("type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, type_):
    info = tarfile.TarInfo("evil")
    info.type, info.linkname = type_, "/etc/passwd"
    with tarfile.open(tmp_path / "x", "w:gz" if kind == "tar.gz" else "w") as out:
        out.addfile(info)
    with pytest.raises(DataError, match="evil is a link or device"):
        Source(tmp_path / "x", tmp_path)


def test_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("evil")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        out.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="evil is a link"):
        Source(tmp_path / "x.zip", tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_bomb_by_its_ratio_is_refused(tmp_path, kind, monkeypatch):
    path = pack(tmp_path / "x", kind, {"zeros": bytes(4 << 20)})
    monkeypatch.setattr(archive, "MAX_RATIO", 100)
    assert path.stat().st_size * 100 < 2 << 20
    with pytest.raises(DataError, match="zeros would unpack to 4,194,304 bytes.*a bomb"):
        Source(path, tmp_path)


def test_much_that_packs_well_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = pack(tmp_path / "x.zip", "zip", {"zeros": bytes(4 << 20)})
    monkeypatch.setattr(archive, "MANY", 4 << 20)
    assert len(everything(path, tmp_path)["zeros"]) == 4 << 20
    monkeypatch.setattr(archive, "MANY", (4 << 20) - 1)
    with pytest.raises(DataError, match="zeros would unpack to 4,194,304 bytes.*a bomb"):
        Source(path, tmp_path)


@pytest.mark.parametrize(
    ("start", "name"), [(b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!\x1a\x07\1", "rar"), (b"\x28\xb5\x2f\xfd", "Zstandard")]
)
def test_archives_of_other_kinds_are_named(tmp_path, start, name):
    (tmp_path / "x.zip").write_bytes(start + bytes(600))
    with pytest.raises(DataError, match=f"is a {name} archive, which is not read; unpack it and give the folder"):
        Source(tmp_path / "x.zip", tmp_path)


@pytest.mark.parametrize(
    ("offset", "value", "said"), [(8, 9, "is packed by Deflate64, which is not read"), (6, 1, "needs a password")]
)
def test_what_a_zip_needs_is_named(tmp_path, offset, value, said):
    path = pack(tmp_path / "x.zip", "zip", {"a": b"text"})
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\1\2")
    data[offset], data[central + offset + 2] = value, value
    path.write_bytes(data)
    with pytest.raises(DataError, match=said):
        Source(path, tmp_path)


def test_where_nothing_can_be_written_a_tar_is_unpacked_elsewhere(tmp_path, monkeypatch):
    path = pack(tmp_path / "x", "tar.gz")
    real = archive.tempfile.TemporaryFile

    def read_only(dir=None):
        if dir is not None:
            raise OSError(errno.EROFS, "Read-only file system")
        return real()

    monkeypatch.setattr(archive.tempfile, "TemporaryFile", read_only)
    assert everything(path, tmp_path) == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_the_beginning_of_a_file_is_that_of_the_file(tmp_path, kind):
    long = {"long": bytes(range(256)) * 9}
    with Source(pack(tmp_path / "x", kind, FILES | long), tmp_path / "scratch") as files:
        for name in files.names:
            assert files.head(name) == files.read(name)[:64]


def test_what_deflate_can_do_at_best_is_no_bomb(tmp_path):
    path = pack(tmp_path / "x.zip", "zip", {"zeros": bytes(4 << 20)})
    assert len(everything(path, tmp_path)["zeros"]) == 4 << 20


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(("limit", "value"), [("MAX_MEMBER", 2000), ("MAX_TOTAL", 3000), ("MAX_MEMBERS", 2)])
def test_limits_on_one_member_all_and_their_number_hold(tmp_path, kind, limit, value, monkeypatch):
    path = pack(tmp_path / "x", kind)
    everything(path, tmp_path)
    monkeypatch.setattr(archive, limit, value)
    with pytest.raises(DataError, match="a bomb.*unpack it and give the folder"):
        Source(path, tmp_path)


def test_a_zip_member_larger_than_it_claims_is_refused(tmp_path):
    path = pack(tmp_path / "x.zip", "zip", {"grows": bytes(100_000)})
    data = path.read_bytes()
    true, claimed = (100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    assert data.count(true) == 2  # in the local header and in the directory
    path.write_bytes(data.replace(true, claimed))
    with pytest.raises(DataError, match="damaged"):
        everything(path, tmp_path)


@pytest.mark.parametrize("kind", ["zip", "stored.zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, kind, share):
    whole = pack(tmp_path / "x", kind, {f"f{i}": os.urandom(3000) for i in range(8)}).read_bytes()
    (tmp_path / "x").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError):
        everything(tmp_path / "x", tmp_path / "scratch")


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_tar_cut_between_or_inside_headers_is_refused(tmp_path, kind):
    members = {f"f{i}": bytes([i]) * 512 for i in range(4)}
    whole = pack(tmp_path / "whole", "tar", members).read_bytes()
    assert whole[512:514] == b"f0" and whole[1536:1538] == b"f1"
    accepted = []
    for cut in (1536, 1600, 2000, 2048, 2100, 3584):
        if kind == "tar":
            (tmp_path / "x").write_bytes(whole[:cut])
        else:
            import zlib

            stream = zlib.compressobj(wbits=31)
            (tmp_path / "x").write_bytes(stream.compress(whole[:cut]) + stream.flush(zlib.Z_SYNC_FLUSH))
        try:
            if everything(tmp_path / "x", tmp_path / "scratch") != members:
                accepted.append(cut)
        except DataError:
            continue
    assert accepted == []


@pytest.mark.parametrize("kind", ["zip", "stored.zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_flipped_byte_in_the_contents_is_noticed(tmp_path, kind):
    content = {"f": os.urandom(20_000)}
    whole = bytearray(pack(tmp_path / "x", kind, content).read_bytes())
    whole[len(whole) // 2] ^= 0x10
    (tmp_path / "x").write_bytes(whole)
    with pytest.raises(DataError):
        everything(tmp_path / "x", tmp_path / "scratch")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_a_zip_of_another_compression_is_a_sentence(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as out:
        out.writestr("f", os.urandom(2000) * 3)
    assert len(everything(tmp_path / "x.zip", tmp_path)["f"]) == 6000
    whole = bytearray((tmp_path / "x.zip").read_bytes())
    whole[60:90] = b"\xff" * 30
    (tmp_path / "x.zip").write_bytes(whole)
    with pytest.raises(DataError, match="damaged at f"):
        everything(tmp_path / "x.zip", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x1f\x8b",
        b"PK\x03\x04",
        bytes(100),
        b"\xfd7zXZ\x00",
        bz2.compress(b"no tar"),
        lzma.compress(b"no tar"),
        os.urandom(5000),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match="x: is (neither|truncated)"):
        Source(tmp_path / "x", tmp_path)


def test_a_tar_that_holds_a_zip_is_read_as_a_tar(tmp_path):
    inner = pack(tmp_path / "inner.zip", "stored.zip", {"inside": b"1"}).read_bytes()
    path = pack(tmp_path / "x.tar", "tar", {"outer.zip": inner})
    assert everything(path, tmp_path) == {"outer.zip": inner}


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.zip: does not exist"):
        Source(tmp_path / "nowhere.zip", tmp_path)


def test_a_file_that_vanishes_from_a_folder_is_named(tmp_path):
    with Source(pack(tmp_path / "x", "folder"), tmp_path) as files:
        (tmp_path / "x" / "top").unlink()
        with pytest.raises(DataError, match="x/top: No such file"):
            files.read("top")


def test_a_scratch_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="scratch: a part of this path is a file"):
        Source(pack(tmp_path / "x", "tar.gz"), tmp_path / "file" / "scratch")


def test_hard_links_are_read_holes_are_named_and_a_name_that_comes_again_is_told(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as out:
        info = tarfile.TarInfo("a")
        info.size = 3
        out.addfile(info, io.BytesIO(b"one"))
        link = tarfile.TarInfo("b")
        link.type, link.linkname = tarfile.LNKTYPE, "a"
        out.addfile(link)
    assert everything(tmp_path / "x.tar", tmp_path) == {"a": b"one", "b": b"one"}
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        warnings.simplefilter("ignore")
        for content in ("first", "second"):
            out.writestr("a", content)
    with Source(tmp_path / "x.zip", tmp_path) as files:
        assert files.read("a") == b"second"
        assert files.skipped == {"replaced by a later file of the same name": ["a"]}


def test_a_folder_with_a_colon_is_no_drive(tmp_path):
    path = pack(tmp_path / "x.zip", "zip", {"Time 12:/a": b"1"})
    assert everything(path, tmp_path) == {"Time 12:/a": b"1"}
