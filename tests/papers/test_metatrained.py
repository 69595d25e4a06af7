"""Tables whose rows are meta-trained: one pre-training, rows in phases, the same episodes; and evaluation on another
set.
"""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from tables import built

from fewshot_cli.config.load import load_recipe
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.store import open_store
from fewshot_cli.data.writer import StoreWriter
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.stats import paired
from fewshot_cli.papers import evaluated
from fewshot_cli.papers.catalog import find_table, table_names
from fewshot_cli.papers.evaluated import EvaluatedCells
from fewshot_cli.papers.metatrained import MetatrainedCells
from fewshot_cli.papers.request import Request
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import Run
from fewshot_cli.weights import checkpoint, installed

RECIPE = """
base: glyphs_5w1s
dataset: {name: glyphs, store: tiny}
image: {size: 16}
backbone: {name: conv64, channels: 8, last_pool: false}
head: {name: align, embed_channels: 4, offset_channels: 4}
weights: mine
pretrain: {epochs: 1, batch: 64, augment: {crop: none}, validation: {episodes: 5, head: {name: prototype}}}
metatrain:
  steps: 2
  query: 3
  epochs: 1
  augment: {crop: none, flip: false}
  validation: {episodes: 5}
  phases: {lsc: {options: {manipulate: false}}, ssm: {}}
"""
ROWS = [
    {"name": "all", "set": ["head={name: align}"], "published": {"glyphs": [[60.0, 1.0], [70.0]]}},
    {
        "name": "bare",
        "set": [
            "head={name: align, deform: none, mask: false, correspondence: none, manipulate: false}",
            "metatrain.phases.ssm=null",
        ],
        "published": {"glyphs": [[50.0, 1.0], [60.0]]},
    },
    {"name": "theirs", "published": {"glyphs": [[40.0], None]}},
]
TABLE = {
    "name": "lsc.T9",
    "title": "t",
    "source": "s",
    "kind": "metatrained",
    "recipe": "{dataset}_5w{shot}s_mine.yaml",
    "default_dataset": "glyphs",
    "reference": "bare",
    "columns": [{"way": 5, "shot": 1}, {"way": 5, "shot": 5, "set": ["episode.query=4"]}],
    "rows": ROWS,
}


@pytest.fixture
def ask(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    Path("glyphs_5w1s_mine.yaml").write_text(RECIPE)
    Path("glyphs_5w5s_mine.yaml").write_text("base: glyphs_5w1s_mine\nepisode: {shot: 5}\nmetatrain: {shot: 5}\n")

    def make(weights=None, sets=("metatrain.phases.ssm.epochs=2",), rows=()):
        return Request(
            tiny.root,
            Processes(torch.device("cpu")),
            sets=sets,
            rows=rows,
            dataset="glyphs",
            weights=weights,
            episodes=12,
        )

    return make


def run(table, request: Request, path: Path, resume: bool = False):
    table = built(table)
    return evaluated.run(table, request, MetatrainedCells(table, request, path), "glyphs", path, resume)


def only(pattern: str) -> Path:
    """The one folder that is called so."""
    (found,) = Path().glob(pattern)
    return found


@pytest.mark.slow
def test_rows_share_a_pretraining_and_are_trained_in_their_own_phases(ask, tiny, fsl):
    result = run(TABLE, ask(), Path("t/one"))
    records = {(r["row"], r["shot"]): r for r in result["records"]}
    start = checkpoint.load(only("t/pretrain_mine_*") / "weights.safetensors").sha256
    places = {
        key: Path(records[key]["command"].split("--run-dir ")[1].split()[0])
        for key in (("all", 1), ("all", 5), ("bare", 1), ("bare", 5))
    }
    assert len(set(places.values())) == 4 == len(list(Path("t").glob("align_*")))
    phases = {key: sorted(p.name for p in place.iterdir() if p.is_dir()) for key, place in places.items()}
    assert phases["all", 1] == ["lsc", "ssm"] and phases["bare", 5] == ["lsc"]  # also where --set speaks of ssm
    assert all(checkpoint.load(p / "lsc/weights.safetensors").sidecar["start"] == start for p in places.values())
    assert len(Run.records(places["all", 1] / "ssm/log.jsonl")) == 2
    done = {(r["row"], r["shot"]): r for r in Run.records(Path("t/one/rows.jsonl"))}
    mean, half = paired(done["all", 5]["accuracies"], done["bare", 5]["accuracies"])
    assert (records["all", 5]["difference"], records["all", 5]["difference_ci95"]) == (mean, half)
    assert (
        records["all", 1]["published"] == 60.0
        and "missing" in records["theirs", 1]
        and records["theirs", 1]["published"] == 40.0
    )
    train, test = (shlex.split(words) for words in records["all", 5]["command"].split(" && "))
    assert train[:4] == ["fsl", "metatrain", "--recipe", "glyphs_5w5s_mine"] and "--weights" in train
    train[3], test[3] = ("glyphs_5w5s_mine.yaml",) * 2  # an installed recipe has no ending
    train[train.index("--run-dir") + 1] = "again"
    test[test.index("--weights") + 1] = "again/weights.safetensors"
    assert fsl(*train[1:], "--data-root", tiny.root)[0] == 0
    code, out, err = fsl(*test[1:], "--format", "json", "--data-root", tiny.root)
    assert code == 0 and json.loads(out)["accuracy"] == records["all", 5]["accuracy"], (
        err
    )  # the column's own options count


def test_tables_share_rows_and_mix_no_configurations(ask):
    run(TABLE, ask(rows=("bare",)), Path("t/one"))
    made = {p: p.stat().st_mtime_ns for p in Path("t").rglob("weights.safetensors")}
    other = {**TABLE, "name": "lsc.T8", "rows": [{**ROWS[1], "name": "nothing"}, ROWS[0]], "reference": "nothing"}
    run(other, ask(rows=("nothing",)), Path("t/two"))
    assert {p: p.stat().st_mtime_ns for p in Path("t").rglob("weights.safetensors")} == made
    with pytest.raises(
        DataError, match="another configuration"
    ):  # sets that the reference row itself overrides count too
        run(TABLE, ask(rows=("all",), sets=("metatrain.phases.ssm.epochs=3",)), Path("t/one"), True)
    run(TABLE, ask(rows=("bare",), sets=("metatrain.start=none",)), Path("t/three"))
    assert len(list(Path("t").glob("pretrain*"))) == 1
    fresh = set(Path("t").rglob("lsc/weights.safetensors")) - set(made)
    assert [checkpoint.load(p).sidecar["start"] for p in fresh] == [None, None]


def test_given_weights_stand_in_for_the_pretraining(ask):
    run(TABLE, ask(rows=("bare",)), Path("t/one"))
    given = only("t/pretrain*") / "weights.safetensors"
    run(TABLE, ask(weights=given, rows=("bare",)), Path("u/one"))
    assert not list(Path("u").glob("pretrain*"))
    sidecars = [checkpoint.load(p).sidecar for p in Path("u").rglob("lsc/weights.safetensors")]
    assert [s["start"] for s in sidecars] == [checkpoint.load(given).sha256] * 2


def test_every_row_of_the_paper_is_a_recipe():
    seen = 0
    for name in (n for n in table_names() if n.startswith("lsc.")):
        table = find_table(name)
        for row in table.rows:
            for dataset in row.published or ("cub",):
                if row.set is None:
                    continue
                request = Request(Path(), Processes(torch.device("cpu")), dataset=dataset, episodes=5)
                cells = MetatrainedCells(table, request, Path("t/one"))
                for column in table.columns:
                    trained, tested = cells.trained(row, column), cells.recipe(row, column)
                    assert trained.head == tested.head
                    assert trained.metatrain.shot == trained.episode.shot == column.shot
                    assert cells.pretrained(row).start == trained.start and trained.dataset.name == dataset
                    assert ("ssm" in trained.phases) == trained.head.options.manipulate
                    seen += 1
    assert seen > 60


def test_the_command_says_what_it_needs(fsl):
    code, _, err = fsl("table", "lsc.T3")
    assert code == 2 and "give --dataset cub or another" in err
    code, _, err = fsl("table", "lsc.T3", "--dataset", "cub", "--seeds", "3")
    assert code == 2 and "are evaluated, not trained" in err
    code, _, err = fsl("table", "lsc.T3", "--dataset", "cub", "--episodes", "2")
    assert code == 3 and "no row of lsc.T3 could be run" in err


def birds(root: Path, name: str, classes: dict[str, list[str]]) -> None:
    with StoreWriter(root, name, {"dataset": "Images", "licence": "none", "sources": []}) as writer:
        rng = torch.Generator().manual_seed(len(name))
        for split, own in classes.items():
            for cls in own:
                for i in range(6):
                    pixels = torch.randint(0, 256, (16, 16, 3), generator=rng, dtype=torch.uint8).numpy()
                    writer.add(split, cls, pixels, f"{cls}/{i}")
        writer.finish()


def test_species_that_both_sets_have_are_left_out(fsl, tmp_path):
    Path("mine.yaml").write_text("base: glyphs_5w1s\ndataset: {name: cub}\nepisode: {way: 2, query: 3}\n")
    root = tmp_path / "data"
    birds(
        root,
        "cub",
        {"train": ["001.Black_footed_Albatross", "045.Northern_Fulmar"], "test": ["079.Belted_Kingfisher", "x", "y"]},
    )
    test = [
        "Mallard",
        "Black-footed Albatross",
        "Belted Kingfisher",
        "Ovenbird",
        "Northern Fulmar (Dark morph)",
        "Osprey",
    ]
    birds(root, "nabirds", {"train": ["a", "b"], "val": ["c", "d"], "test": test})
    common = (
        "eval",
        "--recipe",
        "mine.yaml",
        "--dataset",
        "nabirds",
        "--episodes",
        "20",
        "--format",
        "json",
        "--data-root",
        root,
        "--weights",
        installed.file("glyphs_conv64"),
    )
    code, out, err = fsl(*common, "--run-dir", "all")
    assert code == 0, err
    assert (json.loads(out)["dataset"], json.loads(out)["classes"]) == ("nabirds", 6)
    code, out, err = fsl(*common, "--run-dir", "few", "--set", "eval.without=cub")
    assert code == 0 and json.loads(out)["classes"] == 3 and "left out 3 of 6 classes" in err, err
    seen = {cls for r in Run.records(Path("few/episodes.jsonl")) for cls in r["classes"]}
    assert seen == {"Mallard", "Ovenbird", "Osprey"}
    table = built(
        {
            "name": "lsc.T9",
            "title": "t",
            "source": "s",
            "kind": "evaluated",
            "default_dataset": "glyphs",
            "columns": [{"way": 2, "shot": 1}],
            "reference": "a",
            "rows": [{"name": "a", "set": ["dataset.name=nabirds", "eval.without=cub"]}],
        }
    )
    Path("cub_mine.yaml").write_text("base: glyphs_5w1s\nepisode: {way: 2, query: 3}\n")
    weights = installed.file("glyphs_conv64")
    request = Request(root, Processes(torch.device("cpu")), recipe="cub_mine.yaml", weights=weights, episodes=20)
    rows = evaluated.run(table, request, EvaluatedCells(request), "cub", Path("t"), False)["records"]
    assert rows[0]["accuracy"] == json.loads(out)["accuracy"]
    birds(tmp_path / "new", "cub", {"train": ["x", "y"]})
    shutil.rmtree(root / "cub")
    (tmp_path / "new/cub").rename(root / "cub")
    code, _, err = fsl(*common, "--run-dir", "few", "--set", "eval.without=cub", "--resume")
    assert code == 3 and "another configuration (classes)" in err
    code, _, err = fsl(*common, "--set", "eval.without=cud")
    assert code == 3 and "cud" in err
    code, _, err = fsl("eval", "--recipe", "cub_5w1s_conv64", "--dataset", "nabirds", "--check")
    assert code == 2 and "dataset is nabirds, not cub" in err


def test_kept_classes_draw_as_a_split_of_their_own_would(tmp_path):
    birds(tmp_path, "one", {"test": list("abcdef")})
    split = open_store(tmp_path, "one").split("test")
    kept = Sampler(split, 2, 1, 3, 1, [1, 3, 4])
    for n in range(30):
        episode = kept(n)
        assert set(episode.classes) <= {1, 3, 4}
        for cls, row in zip(episode.classes, torch.cat([episode.support, episode.query], 1), strict=True):
            assert set(split.labels[row].tolist()) == {cls}
    assert Sampler(split, 2, 1, 3, 1, list(range(6)))(7).classes == Sampler(split, 2, 1, 3, 1)(7).classes
    assert load_recipe("cub_5w1s").eval.without is None
