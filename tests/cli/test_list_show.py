"""What is there, and that it is put together the way the design says."""

import json
import re
from pathlib import Path

import pytest

from fewshot_cli import registry
from fewshot_cli.config.load import find_recipe, installed_recipes, load_recipe

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("solvers", "backbones", "heads", "recipes")


@pytest.mark.parametrize("kind", ["solvers", "heads", "backbones", "classifiers", "datasets", "recipes"])
def test_list_knows_every_part(fsl, kind, tmp_path):
    code, out, _ = fsl("list", kind, "--format", "json", "--data-root", tmp_path)
    rows = json.loads(out)
    assert code == 0
    known = installed_recipes() if kind == "recipes" else registry.entries(kind)
    assert [row["name"] for row in rows] == list(known)
    if kind == "solvers":
        assert all(row["package"] == "fewshot-cli" for row in rows)
        assert all(row["works here"] == "yes" for row in rows if row["name"] != "qpth")  # its install is optional
    code, table, _ = fsl("list", kind, "--data-root", tmp_path)
    assert code == 0 and rows[0]["name"] in table


def test_show_gives_docstring_and_option_ranges(fsl):
    code, out, _ = fsl("show", "head", "emd")
    assert code == 0 and "temperature: number > 0" in out and "default 12.5" in out and "Logit" in out
    code, out, _ = fsl("show", "dataset", "cub")
    assert code == 0 and "--from:" in out
    code, out, _ = fsl("show", "backbone", "cifar_resnet", "--set", "depth=110", "--classes", "100")
    assert code == 0 and "1.7338 M parameters with a linear classifier of 100 classes" in out
    assert "32×32: 252.9 M (255.0 M)" in out  # the paper prints 1.73 M and 255 M
    code, _, err = fsl("show", "head", "emd", "--classes", "5")
    assert code == 2 and "are for counting a backbone" in err
    code, _, err = fsl("show", "solver", "opencw")
    assert code == 2 and "did you mean 'opencv'" in err
    code, _, err = fsl("show", "sovler", "opencv")
    assert code == 2 and "solvers" in err


@pytest.mark.parametrize("name", sorted(installed_recipes()))
def test_recipe_loads_opens_with_its_command_and_is_named_by_its_task(name):
    loaded = load_recipe(name)
    first = find_recipe(name).read_text().splitlines()[0]
    assert first.startswith(f"# fsl eval --recipe {name}")
    if loaded.eval.protocol == "classification":
        assert name.startswith(f"{loaded.dataset.name}_")
        return
    task = re.match(rf"{loaded.dataset.name}_(\d+)w(\d+)s", name)
    assert task and (int(task[1]), int(task[2])) == (loaded.episode.way, loaded.episode.shot)
    assert ("--check" in first) == (loaded.expect is not None)


def test_every_dataset_has_one_and_five_shot_recipes_for_deepemd_and_prototypes():
    same = {"cifar10", "cifar10_1", "cifar100", "ilsvrc2012"}  # the same classes in train and test: no episodes
    for dataset in set(registry.entries("datasets")) - same:
        for shot in (1, 5):
            assert load_recipe(f"{dataset}_5w{shot}s").head.name == ("emd" if shot == 1 else "sfc")
            assert load_recipe(f"{dataset}_5w{shot}s_prototype").head.name == "prototype"


def test_recipe_cat_and_cp(fsl, tmp_path):
    code, out, _ = fsl("recipe", "cat", "glyphs_5w1s")
    assert code == 0 and out == (ROOT / "recipes" / "glyphs_5w1s.yaml").read_text()
    assert fsl("recipe", "cp", "glyphs_5w1s", tmp_path / "mine.yaml")[0] == 0
    assert (tmp_path / "mine.yaml").read_text() == out
    code, _, err = fsl("recipe", "cp", "glyphs_5w1s", tmp_path / "mine.yaml")
    assert code == 2 and "already exists" in err


def test_completion_knows_names():
    from fewshot_cli.cli import options
    from fewshot_cli.cli.show import _names

    assert "glyphs_5w1s" in options.recipe_names("glyphs")
    assert options.names_of("solvers")("op") == ["opencv"]

    class Context:
        params = {"kind": "head"}

    assert _names(Context, "e") == ["emd"]


def test_part_folders_refuse_a_bare_import():
    for part in PARTS:
        source = (ROOT / part / "__init__.py").read_text("utf-8")
        with pytest.raises(ImportError, match=f"import fewshot_cli.{part}"):
            exec(compile(source, "init", "exec"), {"__name__": part})


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


def test_tables_and_intervals_say_what_is():
    from fewshot_cli.evaluation.stats import share_ci95
    from fewshot_cli.runtime.render import grid

    assert "fewshot-cli[cuda] q[/x] :smile:" in grid(["a[b]"], [["fewshot-cli[cuda] q[/x] :smile:"]])
    share, reach = share_ci95(19, 20)  # Wilson's interval is 76.4 … 99.1
    assert share == 95 and abs(share - reach - 76.4) < 0.05
