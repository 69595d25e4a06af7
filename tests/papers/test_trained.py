"""Tables whose rows are trained: medians over seeds, differences, costs, iterations; continued and shared."""

import json
from pathlib import Path
from statistics import median

import pytest
import torch
from bars import store, write
from PIL import Image
from tables import built

from fewshot_cli.config.load import load_recipe
from fewshot_cli.errors import RecipeError
from fewshot_cli.papers import trained
from fewshot_cli.papers.catalog import find_table, table_names
from fewshot_cli.papers.request import Request
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import Run

ROWS = [
    {"name": "small, linear", "group": "small", "recipe": "lin.yaml", "published": [90.0, 50.0], "parameters": 0.1},
    {
        "name": "small, multi-proxy",
        "group": "small",
        "recipe": "lin.yaml",
        "parts": ["proxies"],
        "published": [91.0, 51.0],
    },
]
TABLE = {
    "name": "mpw.T9",
    "title": "t",
    "source": "s",
    "kind": "trained",
    "rows": ROWS,
    "parts": {"proxies": ["pretrain.classifier={name: multi_proxy, proxies: 2}"]},
    "columns": [
        {"name": "plain", "measure": "accuracy"},
        {"name": "shifted", "measure": "top5", "set": ["dataset.store=held"]},
    ],
}


@pytest.fixture
def ask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "data", "plain", {"train": 8, "test": 6})
    store(tmp_path / "data", "held", {"train": 8, "test": 4})
    write("lin.yaml", "plain", "linear")
    monkeypatch.setattr(trained, "ROUNDS", 1)

    def make(seeds=(1, 2), sets=("pretrain.epochs=2",), rows=(), solver=None):
        return Request(
            tmp_path / "data", Processes(torch.device("cpu")), sets=sets, solver=solver, seeds=seeds, rows=rows
        )

    return make


def test_a_record_is_what_the_runs_below_it_say(ask, tmp_path):
    result = trained.run(built(TABLE), ask(), tmp_path / "t")
    records = {(r["row"], r["column"]): r for r in result["records"]}
    assert len(records) == 4 and json.loads((tmp_path / "t/mpw.T9.json").read_text()) == result
    ours, base = records["small, multi-proxy", "plain"], records["small, linear", "plain"]
    below = tmp_path / "t" / "plain" / "small__multi_proxy"
    summaries = [json.loads((below / f"seed_{s}/eval_plain/summary.json").read_text()) for s in (1, 2)]
    assert ours["values"] == [s["accuracy"] for s in summaries] and ours["value"] == median(ours["values"])
    assert [s["seed"] for s in summaries] == [1, 2]
    shifted = json.loads((below / "seed_2/eval_held/summary.json").read_text())
    assert records["small, multi-proxy", "shifted"]["values"][1] == shifted["top5"]
    apart = [a - b for a, b in zip(ours["values"], base["values"], strict=True)]
    assert ours["difference"] == pytest.approx(sum(apart) / 2) and "difference" not in base
    # two seeds: t with one degree of freedom is 12.706, the mean's standard error half the distance
    assert ours["difference_ci95"] == pytest.approx(12.7062 * abs(apart[0] - apart[1]) / 2, rel=1e-4)
    assert (ours["published"], records["small, linear", "shifted"]["published"]) == (91.0, 50.0)
    assert ours["training_over_first"] > 0 and "training_over_first" not in base and base["printed_parameters"] == 0.1
    assert ours["parameters"] - base["parameters"] == pytest.approx((7 * 2 * 8 - 7 * 8 - 7) / 1e6)
    assert ours["multiply_adds"] - base["multiply_adds"] == pytest.approx((4 * 7 * 2 * 8 - 7 * 8) / 1e6)
    logs = [Run.records(below / f"seed_{s}/pretrain/log.jsonl") for s in (1, 2)]
    means = [record["iterations"]["mean"] for log in logs for record in log]
    assert ours["iterations"]["mean"] == pytest.approx(sum(means) / 4) and means[0] >= 1
    assert ours["iterations"]["epochs"] == pytest.approx(
        [(a["iterations"]["mean"] + b["iterations"]["mean"]) / 2 for a, b in zip(*logs, strict=True)]
    )
    assert "iterations" not in base
    assert ours["command"].startswith("fsl pretrain --recipe lin.yaml --set 'pretrain.classifier={name: multi_proxy")


def test_finished_rows_are_not_trained_again_and_tables_share_them(ask, tmp_path, capsys):
    first = trained.run(built(TABLE), ask(seeds=(1,)), tmp_path / "t")
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "t").rglob("weights.safetensors")}
    other = {**TABLE, "name": "mpw.T8", "columns": [{"name": "iterations", "measure": "iterations"}], "rows": ROWS[1:]}
    second = trained.run(built(other), ask(seeds=(1, 2)), tmp_path / "t")
    assert all(p.stat().st_mtime_ns == at for p, at in made.items())
    assert len(list((tmp_path / "t").rglob("weights.safetensors"))) == len(made) + 1  # the second seed of one row
    assert second["records"][0]["values"][0] == first["records"][3]["iterations"]["mean"]
    assert trained.run(built(TABLE), ask(seeds=(1,)), tmp_path / "t") == first


def test_a_row_that_cannot_run_says_so_and_stops_no_other(ask, tmp_path):
    rows = [
        *ROWS,
        {"name": "large, linear", "group": "large", "recipe": "cifar100_resnet20"},
        {"name": "large, multi-proxy", "group": "large", "recipe": "cifar100_resnet20", "parts": ["proxies"]},
    ]
    result = trained.run(built({**TABLE, "rows": rows}), ask(seeds=(1,)), tmp_path / "t")
    missing = {r["row"]: r["missing"] for r in result["records"] if "missing" in r}
    assert set(missing) == {"large, linear", "large, multi-proxy"} and "cifar100" in missing["large, linear"]
    assert sum("value" in r for r in result["records"]) == 4
    nothing = trained.run(built({**TABLE, "rows": rows[2:]}), ask(seeds=(1,)), tmp_path / "n")
    assert all("missing" in r for r in nothing["records"]) and not (tmp_path / "n").exists()
    with pytest.raises(RecipeError, match="--set pretrain.epoch"):
        trained.run(built(TABLE), ask(sets=("pretrain.epoch=1",)), tmp_path / "t")
    with pytest.raises(RecipeError, match="no row of mpw.T9 is called so"):
        trained.run(built(TABLE), ask(rows=("zzz",)), tmp_path / "t")


def test_a_solver_is_swapped_where_there_is_one(ask):
    linear, proxies = built(TABLE).rows
    other = ask(solver="network_simplex", sets=())
    assert trained.row_sets(linear, other) == [] and trained.row_sets(proxies, other)[-1] == "solver=network_simplex"
    same = ask(solver="sinkhorn", sets=())
    assert trained.row_sets(proxies, same) == TABLE["parts"]["proxies"]  # with the recipe's own options of it


def test_times_are_those_of_an_epoch_and_of_the_test_split(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "beside", lambda pair, *_: [{"training": 1.0 + i, "test": 3.0 + i} for i in range(2)])
    columns = [{"name": "a", "measure": "training_seconds"}, {"name": "b", "measure": "test_seconds"}]
    result = trained.run(built({**TABLE, "columns": columns}), ask(seeds=(1, 2)), tmp_path / "t")
    assert result["records"][0]["values"] == [result["records"][0]["value"]]  # measured once, whatever the seeds
    values = {(r["row"], r["column"]): r["value"] for r in result["records"]}
    # 56 training and 42 test images in batches of 14
    assert values == {
        ("small, linear", "a"): 4.0,
        ("small, linear", "b"): 9.0,
        ("small, multi-proxy", "a"): 8.0,
        ("small, multi-proxy", "b"): 12.0,
    }
    assert not list((tmp_path / "t").rglob("weights.safetensors"))


def test_every_trained_row_is_a_recipe():
    seen = 0
    for name in (n for n in table_names() if n.startswith("mpw.")):
        table = find_table(name)
        for row in table.rows:
            recipe = load_recipe(row.recipe, list(row.set))
            for column in table.columns:
                load_recipe(row.recipe, [*row.set, *column.set])
            assert recipe.eval.protocol == "classification"
            seen += 1
    assert seen == 12 + 16 + 6 + 14 + 2 + 6


def test_the_command_draws_and_refuses(fsl, ask, monkeypatch):
    rows = [{**ROWS[1], "published": [5.93]}]
    one = {
        **TABLE,
        "name": "mpw.Fig2",
        "rows": rows,
        "columns": [{"name": "iterations", "measure": "iterations"}],
    }
    monkeypatch.setattr("fewshot_cli.papers.catalog.find_table", lambda name: built({**one, "name": name}))
    common = ("--seeds", "1", "--set", "pretrain.epochs=2", "--data-root", "data")
    code, out, err = fsl("table", "mpw.Fig2", *common, "--plot", "f.png", "--format", "json")
    assert code == 0, err
    assert json.loads(out)["records"][0]["published"] == 5.93 and Image.open("f.png").width > 500
    assert Path("runs/table/mpw/mpw.Fig2.json").exists()
    code, out, _ = fsl("table", "mpw.Fig2", *common)
    assert code == 0 and "small, multi-proxy" in out and "5.93" in out
    for words, said in (
        (("--episodes", "3"), "--episodes: the rows of mpw.Fig2 are trained"),
        (("--resume",), "continues by itself"),
        (("--format", "junit"), "has no test to report"),
        (("--set", "backbone=conv64"), "set this themselves"),
        (("--set", "seed=5"), "set this themselves"),
    ):
        code, _, err = fsl("table", "mpw.Fig2", *common, *words)
        assert code == 2 and said in err, err
    code, out, err = fsl("table", "mpw.Fig2", *common, "--solver", "network_simplex", "--run-dir", "exact")
    assert code == 3 and "solver network_simplex counts no iterations" in err
    code, _, err = fsl("table", "mpw.T2", *common, "--plot", "x.png")
    assert code == 2 and "use mpw.Fig2" in err
    monkeypatch.undo()
    code, _, err = fsl("table", "deepemd.T1", "--recipe", "glyphs_5w1s", "--seeds", "2")
    assert code == 2 and "are evaluated, not trained" in err
