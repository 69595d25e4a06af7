"""`fsl reproduce`: stages that are done once, and the report."""

import json
import shutil
from pathlib import Path

import pytest

from fewshot_cli.weights import checkpoint

SMALL = (
    "dataset={name: images, store: tiny}",
    "image.size=16",
    "backbone.channels=8",
    "episode.query=3",
    "eval.episodes=4",
    "pretrain={epochs: 1, batch: 64, validation: {episodes: 4}, precision: '32'}",
    "metatrain={epochs: 1, steps: 9, query: 3, validation: {episodes: 4}, precision: '32'}",
)


def test_reproduce_goes_on_where_it_was_and_reports(fsl, tiny):
    sets = [word for text in SMALL for word in ("--set", text)] + ["--data-root", tiny.root, "--run-dir", "all"]
    code, _, err = fsl("reproduce", "glyphs", *sets, "--set", "metatrain.optimizer={lr: 1000, weight_decay: 1}")
    assert code == 3 and "NaN or infinite" in err  # it has pre-trained so far
    shutil.rmtree("all/metatrain")
    code, out, err = fsl("reproduce", "glyphs", *sets, "--format", "json")
    assert code == 0 and "all/pretrain" not in err and "== all/metatrain" in err, err
    report = json.loads(out)
    assert [(r["method"], r["shot"]) for r in report["rows"]] == [
        (m, s) for m in ("DeepEMD", "ProtoNet, Euclidean", "MatchingNet, cosine") for s in (1, 5)
    ]
    page = Path("all/report.md").read_text()
    for row in report["rows"]:
        summary = json.loads(Path(row["run_dir"], "summary.json").read_text())
        assert row["accuracy"] == pytest.approx(summary["accuracy"]) and f"{row['accuracy']:.2f}" in page
    assert report["hashes"]["weights"] == checkpoint.load(Path("all/metatrain/weights.safetensors")).sha256
    assert json.loads(Path("all/report.json").read_text()) == report and "![curves](pretrain/training.png)" in page
    code, _, err = fsl("reproduce", "glyphs", *sets)
    assert code == 0 and "==" not in err  # all is done
    code, _, err = fsl("reproduce", "glyphs", *sets, "--set", "eval.episodes=5")
    assert code == 3 and "all/eval/emd_1: was started with another configuration (recipe.eval.episodes)" in err
    code, _, err = fsl("reproduce", "glyphs", *sets, "--set", "backbone.channels=4")
    assert code == 3 and "all/pretrain: was started with another configuration" in err
    assert report["command"].startswith("fsl reproduce glyphs --set") and "'pretrain={epochs: 1, " in report["command"]
    code, _, err = fsl("reproduce", "glyfs")
    assert code == 2 and "did you mean 'glyphs'" in err
