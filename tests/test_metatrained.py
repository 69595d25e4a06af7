"""Tables whose rows are meta-trained: one pre-training, rows in phases, the same episodes; and evaluation on another set."""

import json
from pathlib import Path

import pytest
import torch

from fewshot_cli import checkpoint, metatrained, recipe, tables
from fewshot_cli.data.store import StoreWriter, open_store
from fewshot_cli.episodes import Sampler
from fewshot_cli.runs import Run
from fewshot_cli.stats import paired

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
ROWS = [{"name": "all", "set": ["head={name: align}"], "published": {"glyphs": [[60.0, 1.0], [70.0]]}},
        {"name": "bare", "set": ["head={name: align, deform: none, mask: false, correspondence: none, manipulate: false}",
                                 "metatrain.phases.ssm=null"], "published": {"glyphs": [[50.0, 1.0], [60.0]]}},
        {"name": "theirs", "published": {"glyphs": [[40.0], None]}}]  # fmt: skip
TABLE = {"name": "lsc.T9", "title": "t", "source": "s", "metatrained": True, "recipe": "{dataset}_5w{shot}s_mine.yaml", "home": "glyphs",
         "reference": "bare", "columns": [{"way": 5, "shot": 1}, {"way": 5, "shot": 5, "set": ["episode.query=4"]}], "rows": ROWS}  # fmt: skip


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


def test_rows_share_a_pretraining_and_are_trained_in_their_own_phases(ask, tmp_path, glyph_root, fsl):
    result = tables.run(TABLE, ask(), tmp_path / "t", False)
    records = {(r["row"], r["shot"]): r for r in result["records"]}
    assert sorted(p.parent.name for p in (tmp_path / "t").glob("pretrain*/weights.safetensors")) == ["pretrain_mine"]
    start = checkpoint.load(tmp_path / "t/pretrain_mine/weights.safetensors").sha256
    assert sorted(p.name for p in (tmp_path / "t/all_1shot").iterdir() if p.is_dir()) == ["lsc", "ssm"]
    assert [p.name for p in (tmp_path / "t/bare_5shot").iterdir() if p.is_dir()] == [
        "lsc"
    ]  # also where --set speaks of ssm
    for place in ("all_1shot", "bare_5shot"):
        assert checkpoint.load(tmp_path / "t" / place / "lsc/weights.safetensors").sidecar["start"] == start
    assert len(Run.records(tmp_path / "t/all_1shot/ssm/log.jsonl")) == 2
    done = {(r["row"], r["shot"]): r for r in Run.records(tmp_path / "t/rows.jsonl")}
    mean, half = paired(done["all", 5]["accuracies"], done["bare", 5]["accuracies"])
    assert (records["all", 5]["difference"], records["all", 5]["difference_ci95"]) == (mean, half)
    assert (
        records["all", 1]["published"] == 60.0
        and "missing" in records["theirs", 1]
        and records["theirs", 1]["published"] == 40.0
    )
    words = records["all", 5]["command"].split()
    assert words[:4] == ["fsl", "metatrain", "--recipe", "glyphs_5w5s_mine.yaml"]
    code, out, err = fsl("eval", "--recipe", "glyphs_5w5s_mine.yaml", "--weights", tmp_path / "t/all_5shot/weights.safetensors", "--episodes",
                         "12", "--set", "episode.query=4", "--set", "head={name: align}", "--format", "json", "--data-root", glyph_root)  # fmt: skip
    assert code == 0 and json.loads(out)["accuracy"] == records["all", 5]["accuracy"], (
        err
    )  # the column's own options count


def test_given_weights_stand_in_for_the_pretraining(ask, tmp_path):
    tables.run(TABLE, ask(wanted=("bare",)), tmp_path / "t", False)
    given = tmp_path / "t/pretrain_mine/weights.safetensors"
    tables.run(TABLE, ask(weights=given, wanted=("bare",)), tmp_path / "u", False)
    assert not list((tmp_path / "u").glob("pretrain*"))
    sidecar = checkpoint.load(tmp_path / "u/bare_1shot/lsc/weights.safetensors").sidecar
    assert sidecar["start"] == checkpoint.load(given).sha256


def test_every_row_of_the_paper_is_a_recipe():
    seen = 0
    for name in (n for n in tables.names() if n.startswith("lsc.")):
        table = tables.find(name)
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
    common = ("eval", "--recipe", "mine.yaml", "--dataset", "nabirds", "--episodes", "20", "--format", "json", "--data-root", root,
              "--weights", checkpoint.shipped()["glyphs_conv64"])  # fmt: skip
    code, out, err = fsl(*common, "--run-dir", "all")
    assert code == 0, err
    assert (json.loads(out)["dataset"], json.loads(out)["classes"]) == ("nabirds", 6)
    code, out, err = fsl(*common, "--run-dir", "few", "--set", "eval.without=cub")
    assert code == 0 and json.loads(out)["classes"] == 3 and "left out 3 of 6 classes" in err, err
    seen = {cls for r in Run.records(Path("few/episodes.jsonl")) for cls in r["classes"]}
    assert seen == {"Mallard", "Ovenbird", "Osprey"}
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
    assert recipe.load("cub_5w1s").eval.without is None
