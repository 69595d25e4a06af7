"""Shared fixtures: the embedded dataset, small enough to train on in a test, and the command line in-process."""

import sys
from pathlib import Path

import pytest

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
