"""Tables whose rows are meta-trained: one pre-training, rows in phases, the same episodes; and evaluation on another
set.
"""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from fewshot_cli.config.load import load_recipe
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.store import StoreWriter, open_store
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.stats import paired
from fewshot_cli.papers import evaluated, metatrained
from fewshot_cli.papers.catalog import find_table, table_names
from fewshot_cli.runtime.runs import Run
from fewshot_cli.weights import checkpoint

RECIPE = """
base: glyphs_5w1s
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
    "metatrained": True,
    "recipe": "{dataset}_5w{shot}s_mine.yaml",
    "home": "glyphs",
    "reference": "bare",
    "columns": [{"way": 5, "shot": 1}, {"way": 5, "shot": 5, "set": ["episode.query=4"]}],
    "rows": ROWS,
}


@pytest.fixture
def ask(tmp_path, monkeypatch, glyph_root):
    monkeypatch.chdir(tmp_path)
    Path("glyphs_5w1s_mine.yaml").write_text(RECIPE)
    Path("glyphs_5w5s_mine.yaml").write_text("base: glyphs_5w1s_mine\nepisode: {shot: 5}\nmetatrain: {shot: 5}\n")

    def make(weights=None, sets=("metatrain.phases.ssm.epochs=2",), wanted=()):
        device = torch.device("cpu")
        return metatrained.Request(
            "glyphs", sets, None, None, 12, wanted, weights, glyph_root, device, TABLE["recipe"], 1
        )

    return make


def only(pattern: str) -> Path:
    """The one folder that is called so."""
    (found,) = Path().glob(pattern)
    return found


def test_rows_share_a_pretraining_and_are_trained_in_their_own_phases(ask, glyph_root, fsl):
    result = evaluated.run(TABLE, ask(), Path("t/one"), False)
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
    assert fsl(*train[1:], "--data-root", glyph_root)[0] == 0
    code, out, err = fsl(*test[1:], "--format", "json", "--data-root", glyph_root)
    assert code == 0 and json.loads(out)["accuracy"] == records["all", 5]["accuracy"], (
        err
    )  # the column's own options count


def test_tables_share_rows_and_mix_no_configurations(ask, glyph_root):
    evaluated.run(TABLE, ask(wanted=("bare",)), Path("t/one"), False)
    made = {p: p.stat().st_mtime_ns for p in Path("t").rglob("weights.safetensors")}
    other = {**TABLE, "name": "lsc.T8", "rows": [{**ROWS[1], "name": "nothing"}, ROWS[0]], "reference": "nothing"}
    evaluated.run(other, ask(wanted=("nothing",)), Path("t/two"), False)
    assert {p: p.stat().st_mtime_ns for p in Path("t").rglob("weights.safetensors")} == made
    with pytest.raises(
        DataError, match="another configuration"
    ):  # sets that the reference row itself overrides count too
        evaluated.run(TABLE, ask(wanted=("all",), sets=("metatrain.phases.ssm.epochs=3",)), Path("t/one"), True)
    evaluated.run(TABLE, ask(wanted=("bare",), sets=("metatrain.start=none",)), Path("t/three"), False)
    assert len(list(Path("t").glob("pretrain*"))) == 1
    fresh = set(Path("t").rglob("lsc/weights.safetensors")) - set(made)
    assert [checkpoint.load(p).sidecar["start"] for p in fresh] == [None, None]


def test_given_weights_stand_in_for_the_pretraining(ask):
    evaluated.run(TABLE, ask(wanted=("bare",)), Path("t/one"), False)
    given = only("t/pretrain*") / "weights.safetensors"
    evaluated.run(TABLE, ask(weights=given, wanted=("bare",)), Path("u/one"), False)
    assert not list(Path("u").glob("pretrain*"))
    sidecars = [checkpoint.load(p).sidecar for p in Path("u").rglob("lsc/weights.safetensors")]
    assert [s["start"] for s in sidecars] == [checkpoint.load(given).sha256] * 2


def test_every_row_of_the_paper_is_a_recipe():
    seen = 0
    for name in (n for n in table_names() if n.startswith("lsc.")):
        table = find_table(name)
        assert table["reference"] in [row["name"] for row in table["rows"]]
        for row in table["rows"]:
            datasets = row.get("published", {"cub": [None] * len(table["columns"])})
            for dataset, printed in datasets.items():
                assert len(printed) == len(table["columns"])
                if "set" not in row:
                    continue
                one = metatrained.Request(
                    dataset, (), None, None, 5, (), None, Path(), torch.device("cpu"), table["recipe"], 1
                )
                for column in table["columns"]:
                    trained, tested = one.trained(row, column), one.recipe(row, column)
                    assert (
                        trained.head == tested.head and trained.metatrain.shot == trained.episode.shot == column["shot"]
                    )
                    assert one.pretrained(row).start == trained.start and trained.dataset.name == dataset
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
        checkpoint.shipped()["glyphs_conv64"],
    )
    code, out, err = fsl(*common, "--run-dir", "all")
    assert code == 0, err
    assert (json.loads(out)["dataset"], json.loads(out)["classes"]) == ("nabirds", 6)
    code, out, err = fsl(*common, "--run-dir", "few", "--set", "eval.without=cub")
    assert code == 0 and json.loads(out)["classes"] == 3 and "left out 3 of 6 classes" in err, err
    seen = {cls for r in Run.records(Path("few/episodes.jsonl")) for cls in r["classes"]}
    assert seen == {"Mallard", "Ovenbird", "Osprey"}
    table = {
        **TABLE,
        "recipe": "{dataset}_mine.yaml",
        "columns": [{"way": 2, "shot": 1}],
        "reference": "a",
        "rows": [{"name": "a", "set": ["dataset.name=nabirds", "eval.without=cub"]}],
    }
    Path("cub_mine.yaml").write_text("base: glyphs_5w1s\nepisode: {way: 2, query: 3}\n")
    request = evaluated.Request(
        "cub_mine.yaml", (), None, None, 20, (), checkpoint.shipped()["glyphs_conv64"], root, torch.device("cpu")
    )
    rows = evaluated.run(table, request, Path("t"), False)["records"]
    assert rows[0]["accuracy"] == json.loads(out)["accuracy"]
    birds(tmp_path / "new", "cub", {"train": ["x", "y"]})
    shutil.rmtree(root / "cub")
    (tmp_path / "new/cub").rename(root / "cub")
    code, _, err = fsl(*common, "--run-dir", "few", "--set", "eval.without=cub", "--resume")
    assert code == 3 and "another configuration (classes)" in err
    code, _, err = fsl(*common, "--set", "eval.without=cud")
    assert code == 3 and "cud" in err
    code, _, err = fsl("eval", "--recipe", "cub_5w1s_conv64", "--dataset", "nabirds", "--check")
    assert code == 2 and "was not measured on nabirds" in err


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
