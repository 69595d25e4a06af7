"""Parts are found through entry points, and only through the package."""

import json
import sys
from pathlib import Path

import pytest

from fewshot_cli import registry

ROOT = Path(__file__).resolve().parents[1]


def distribution(site: Path, name: str, source: str, points: str) -> None:
    """A distribution as pip leaves it: one module, and metadata with entry points."""
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path, seen by the registry while the test runs."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry.entries.cache_clear()
    yield tmp_path / "site"
    registry.entries.cache_clear()


@pytest.mark.parametrize("source", ["1 / 0", "import sys; sys.exit(0)", "raise KeyError('x')", "assert False", "("])
def test_a_plug_in_that_does_anything_at_import_is_a_line_and_a_sentence(fsl, site, source):
    distribution(site, "rude", source, "[fewshot_cli.heads]\nrude = rude:Head\n")
    registry.entries.cache_clear()
    code, out, err = fsl("list", "heads", "--format", "json")
    row = next(row for row in json.loads(out) if row["name"] == "rude")
    assert code == 0 and row["works here"].startswith("no: rude: rude:Head of package rude does not import"), err
    sys.modules.pop("rude", None)
    code, out, err = fsl("eval", "--set", "head=rude")
    assert code == 2 and out == "" and "of package rude does not import" in err and "Traceback" not in err


def test_two_packages_with_one_name_for_a_part_are_refused(fsl, site):
    for name in ("one", "two"):
        distribution(site, f"heads_{name}", "class Head: ...", f"[fewshot_cli.heads]\nmine = heads_{name}:Head\n")
    distribution(site, "heads_emd", "class Head: ...", "[fewshot_cli.heads]\nemd = heads_emd:Head\n")
    registry.entries.cache_clear()
    for name, packages in (("mine", {"heads_one", "heads_two"}), ("emd", {"fewshot-cli", "heads_emd"})):
        code, _, err = fsl("eval", "--set", f"head={name}")
        assert code == 2 and "both have one of this name; uninstall one" in err
        assert all(package in err for package in packages), err


@pytest.mark.parametrize("folder", ["solvers", "backbones", "heads", "recipes"])
def test_a_folder_of_parts_refuses_a_bare_import(folder):
    source = (ROOT / folder / "__init__.py").read_text("utf-8")
    with pytest.raises(ImportError, match=f"import fewshot_cli.{folder}"):
        exec(compile(source, "init", "exec"), {"__name__": folder})


def test_a_third_partys_part_is_found_through_its_entry_point(monkeypatch, tmp_path):
    (tmp_path / "lazy_ot.py").write_text(
        "from fewshot_cli.contracts import Solver\n"
        "class Lazy(Solver):\n    'A solver of somebody else.'\n    def solve(self, cost, supply, demand): ...\n"
    )
    info = tmp_path / "lazy_ot-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lazy-ot\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fewshot_cli.solvers]\nlazy = lazy_ot:Lazy\nbroken = lazy_ot_absent:Gone\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.entries.cache_clear()
    try:
        assert registry.entries("solvers")["lazy"].package == "lazy-ot"
        assert registry.solver("lazy").__name__ == "Lazy"
        with pytest.raises(Exception, match="broken: lazy_ot_absent:Gone of package lazy-ot does not import"):
            registry.solver("broken")
    finally:
        registry.entries.cache_clear()
