"""What surrounds a command: `~` in paths, FIFOs and devices in place of files, long names, errors of the system."""

import errno
import os
import shutil

import pytest
from spoiled import images

from fewshot_cli.cli import app
from fewshot_cli.errors import Exit
from fewshot_cli.runtime import console

EVAL = ("eval", "--recipe", "glyphs_5w1s_prototype", "--episodes", "2")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of this test's own."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def test_a_tilde_is_the_home_folder_where_no_shell_has_replaced_it(fsl, home, tmp_path, monkeypatch):
    monkeypatch.setenv("FSL_DATA_ROOT", "~/store")
    code, _, err = fsl(*EVAL, "--run-dir=~/run")
    assert code == 0, err
    assert (home / "store" / "glyphs").is_dir() and (home / "run" / "episodes.jsonl").is_file()
    assert fsl("compare", "~/run", "~/run")[0] == 0  # arguments, not options
    assert fsl("recipe", "cp", "glyphs_5w1s", "~/mine.yaml")[0] == 0 and (home / "mine.yaml").is_file()
    assert fsl("recipe", "check", "~/mine.yaml")[0] == 0  # a path that is a text to the parser
    assert not [path for path in tmp_path.rglob("*") if path.name == "~"]


def test_a_tilde_in_a_recipe_is_the_home_folder(fsl, tiny, pretrained, home):
    for name in ("weights.safetensors", "weights.safetensors.json"):
        shutil.copy(pretrained / name, home / name)
    code, _, err = fsl("pretrain", *tiny.words, "--dry-run", "--set", "pretrain.start=~/weights.safetensors")
    assert code == 0, err


INPUTS = {
    "recipe": (Exit.DATA, ("eval", "--recipe", "PIPE")),
    "recipe shown": (Exit.DATA, ("show", "recipe", "PIPE")),
    "weights": (Exit.DATA, (*EVAL, "--weights", "PIPE")),
    "checkpoint": (Exit.DATA, ("import", "PIPE", "--backbone", "conv64", "-o", "w.safetensors")),
    "archive": (Exit.DATA, ("prepare", "cub", "--from", "PIPE")),
    "images": (Exit.DATA, ("prepare", "images", "--name", "x", "--from", "PIPE")),
    "support": (Exit.DATA, ("classify", "photos", "--support", "PIPE")),
    "photo": (Exit.DATA, ("classify", "PIPE", "--support", "photos")),
    "run": (Exit.DATA, ("compare", "run", "run")),
    "store": (Exit.DATA, ("eval", "--recipe", "glyphs_5w1s", "--data-root", "root")),
}


@pytest.mark.parametrize("kind", ["a FIFO", "a device"])
@pytest.mark.parametrize("what", INPUTS)
def test_a_fifo_or_a_device_in_place_of_a_file_is_refused_and_not_waited_for(fsl, tmp_path, kind, what):
    images(tmp_path / "photos", ["a", "b"])
    places = [tmp_path / "PIPE", tmp_path / "run" / "episodes.jsonl", tmp_path / "root" / "glyphs" / "index.json"]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "a FIFO":
            os.mkfifo(place)
        else:
            place.symlink_to("/dev/zero")
    expected, words = INPUTS[what]
    code, _, err = fsl(*words)
    assert code == expected and "is a FIFO, socket or device, not a file" in err, err


@pytest.mark.parametrize(
    "words",
    [
        (*EVAL, "--run-dir", "a" * 300),
        (*EVAL, "--weights", "b/" * 3000),
        ("eval", "--recipe", "c" * 300),
        ("prepare", "images", "--name", "x", "--from", "d" * 5000),
        ("classify", "e" * 300, "--support", "f" * 300),
    ],
)
def test_a_name_longer_than_the_system_allows_is_a_short_sentence(fsl, words):
    code, _, err = fsl(*words)
    assert code in (Exit.USAGE, Exit.DATA) and "internal fault" not in err
    assert len(err) < 1000 and "too long" in err.lower() or "longer than the system allows" in err


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EMFILE, "ulimit -n"), (errno.ENAMETOOLONG, "longer than"), (errno.EIO, "some/file")]
)
def test_an_error_of_the_system_is_no_internal_fault(monkeypatch, fsl, number, words):
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr(app, "app", refused)
    code, _, err = fsl("list")
    assert code == Exit.DATA and words in err and "internal fault" not in err


def test_messages_are_bounded(capsys):
    for text in ("x" * 10**6, "word " * 10**5, "\n".join(map(str, range(1000)))):
        console.complain(text)
        said = capsys.readouterr().err
        assert len(said) < 3100 and len(said.splitlines()) <= 20
    console.complain("a usual sentence")
    assert capsys.readouterr().err == "fsl: a usual sentence\n"
