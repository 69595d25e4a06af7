"""From grids and files to cells: every combination once, named, with its method and its task."""

import pytest

from fewshot_cli.errors import FslError
from fewshot_cli.laboratory.plan import baseline_of, cells_of, parse_grid, varied_tasks
from fewshot_cli.laboratory.schema import SweepSpec, load_sweep


def spec(**keys):
    return SweepSpec(recipe=("glyphs_5w1s",), **keys)


def test_every_combination_is_a_cell_with_a_folder_of_its_own():
    grid = parse_grid(["head=emd,prototype", "episode.shot=1,5"])
    cells = cells_of(spec(grid=grid, seeds=2))
    assert len(cells) == 8 == len({cell.folder for cell in cells})
    assert {(c.recipe.head.name, c.recipe.episode.shot, c.recipe.seed) for c in cells} == {
        (head, shot, seed) for head in ("emd", "prototype") for shot in (1, 5) for seed in (1, 2)
    }
    assert {cell.method for cell in cells} == {(("head", "emd"),), (("head", "prototype"),)}
    assert varied_tasks(cells) == ["shot"] and cells[0].folder == "emd_1-shot_seed-1"


def test_values_of_a_grid_are_yaml():
    grid = parse_grid(["head={name: emd, pyramid: [2, 1]},frn", "episode.shot=1, 5"])
    assert grid == {"head": ({"name": "emd", "pyramid": [2, 1]}, "frn"), "episode.shot": (1, 5)}
    first, *_ = cells_of(spec(grid=grid))
    assert first.recipe.head.options.pyramid == (2, 1) and first.label == "emd pyramid=[2, 1]"


def test_options_of_a_part_hold_whatever_part_a_grid_puts_there():
    cells = cells_of(spec(set={"head.floor": 0.5}, grid={"head": ("emd", {"name": "emd", "norm": "cosine"})}))
    assert [(c.recipe.head.options.norm, c.recipe.head.options.floor) for c in cells] == [
        ("center", 0.5),
        ("cosine", 0.5),
    ]


def test_solvers_make_one_cell_of_a_head_that_poses_no_problems():
    cells = cells_of(spec(grid={"head": ("emd", "prototype"), "solver": ("network_simplex", "pot")}))
    assert [cell.label for cell in cells] == ["emd, network_simplex", "emd, pot", "prototype, -"]


def test_cells_of_one_name_on_several_datasets_are_one_method(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: glyphs_5w1s\nhead: knn\n")
    (tmp_path / "s.yaml").write_text(
        "grid: {episode.shot: [1, 5]}\ncells:\n"
        "  - {name: small, recipe: cub_5w1s_conv64}\n  - {name: small, recipe: cifar_fs_5w1s_conv64}\n"
        "  - {name: mine, recipe: mine, set: {episode.way: 3}}\n"
    )
    cells = cells_of(load_sweep(tmp_path / "s.yaml"), tmp_path)
    assert [cell.label for cell in cells] == ["small"] * 4 + ["mine"] * 2
    assert varied_tasks(cells) == ["dataset", "way", "shot"] and cells[-1].recipe.head.name == "knn"


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"grid": {"hed": ("emd",)}}, "did you mean 'head'"),
        ({"grid": {"pretrain.epochs": (1, 2)}}, "changes training, not evaluation"),
        ({"grid": {"seed": (1, 2)}}, "use --seeds"),
        ({"grid": {"eval.episodes": (1, 2)}}, "use --set"),
        ({"grid": {"head": ("emd", "emd")}}, "has a value twice"),
        ({"grid": {"head": ("emd",)}, "set": {"head": "knn"}}, "also set for all cells"),
        ({"grid": {"head": ("emdd",)}}, "did you mean 'emd'"),
        ({"set": {"eval.protocol": "classification"}}, "compares on few-shot episodes"),
        ({"seeds": 1000, "grid": {"episode.shot": tuple(range(1, 12))}}, "10000 are allowed"),
    ],
)
def test_what_no_sweep_can_be_is_refused(keys, sentence):
    with pytest.raises(FslError, match=sentence):
        cells_of(spec(**keys))
    with pytest.raises(FslError, match="two cells of this name"):
        cells_of(SweepSpec(recipe=("glyphs_5w1s", "glyphs_5w1s")))


@pytest.mark.parametrize("text", ["head", "head=", "=emd"])
def test_a_grid_that_is_none_is_refused(text):
    with pytest.raises(FslError, match="write it as key=value,value"):
        parse_grid([text])


def test_a_baseline_is_a_method_by_its_words():
    cells = cells_of(spec(grid={"head": ("emd", "prototype"), "solver": ("network_simplex", "pot")}))
    assert baseline_of(cells, None) == "emd, network_simplex" == baseline_of(cells, "network_simplex")
    assert baseline_of(cells, "pot emd") == "emd, pot"
    with pytest.raises(FslError, match="may be several methods .* emd, network_simplex; emd, pot"):
        baseline_of(cells, "emd")
    with pytest.raises(FslError, match="is no method"):
        baseline_of(cells, "frn")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("recipe: glyphs_5w1s\ngrdi: {}\n", "s.yaml:2: grdi: unknown key .did you mean 'grid'"),
        ("recipe: glyphs_5w1s\nseeds: 0\n", "s.yaml:2: seeds: must be at least 1, not 0"),
        ("recipe: a\nsearch: {space: {head: [emd]}, trials: x}\n", "s.yaml:2: search.trials"),
        ("recipe: a\nsearch: {space: {x.y: {lo: 3}}}\n", "s.yaml:2: search.space.x.y.lo: unknown key"),
        ("recipe: a\nsearch: {space: {x.y: {low: 3, high: 1}}}\n", "s.yaml:2: search.space.x.y: low 3 must lie below"),
        ("recipe: a\nsearch: {space: {x.y: {low: 0, high: 1, log: true}}}\n", "needs low above 0"),
        ("recipe: a\nsearch: {space: {x.y: []}}\n", "s.yaml:2: search.space.x.y: has no values"),
        ("recipe: a\nsearch: {space: {x.y: 3}}\n", "s.yaml:2: search.space.x.y: must be a list"),
    ],
)
def test_a_file_is_refused_with_its_line(tmp_path, text, sentence):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(FslError, match=sentence):
        load_sweep(tmp_path / "s.yaml")
