"""Parts are found through entry points, and only through the package."""

from pathlib import Path

import pytest

from fewshot_cli import registry

ROOT = Path(__file__).resolve().parents[1]


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
