"""Shared fixtures: the embedded dataset, small enough to train on in a test, and the command line in-process."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Children
from tiny import PRETRAINED, Tiny, make


def pytest_configure(config):
    """Workers share the cores, so none of them takes more than one; they are started after this."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each worker begins with whole files, so that what a file's tests share is made once; at the end they help out."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images, where they are at hand."""
    if not SHARED.is_dir():
        pytest.skip("no real images beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def glyph_root(tmp_path_factory) -> Path:
    """A data root that holds the embedded dataset."""
    from fewshot_cli import registry
    from fewshot_cli.data.prepare import build_store

    root = tmp_path_factory.mktemp("data")
    build_store("glyphs", registry.dataset("glyphs")(), [], root)
    return root


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    """A dataset to train on in a second, and its recipe."""
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def children() -> Iterator[Children]:
    """Commands in processes of their own: `children.run("eval", …, cwd=folder)`."""
    server = Children()
    yield server
    server.close()


@pytest.fixture(scope="session")
def pretrained(tiny, children, tmp_path_factory) -> Path:
    """The run directory of three epochs of pre-training, with averaged weights and mixed images."""
    folder = tmp_path_factory.mktemp("pretrained")
    children.run("pretrain", *tiny.words, *PRETRAINED, "--run-dir", folder / "run", cwd=folder, check=True)
    return folder / "run"


@pytest.fixture
def fsl(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder: returns (exit code, stdout, stderr)."""
    from fewshot_cli.cli import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSL_DATA_ROOT", str(tmp_path / "data"))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fsl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            app.main()
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return run
