"""Meta-training in phases, from random weights, and of some parts only."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.errors import RecipeError
from fewshot_cli.weights import checkpoint

RECIPE = """
base: glyphs_5w1s
backbone: {name: conv64, channels: 8, last_pool: false}
head: {name: align, embed_channels: 4, offset_channels: 4}
metatrain:
  start: none
  epochs: 2
  steps: 2
  query: 3
  optimizer: {name: adam, lr: 1e-3, weight_decay: 0}
  schedule: {name: constant}
  augment: {crop: none, flip: false}
  validation: {episodes: 20}
  phases:
    lsc: {epochs: EPOCHS, options: {manipulate: false}}
    ssm: {optimizer: {name: adam, lr: 1e-2, weight_decay: 0}, train: [head.offsets, head.scale]}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(epochs=2):
        Path("mine.yaml").write_text(RECIPE.replace("EPOCHS", str(epochs)))
        return "mine.yaml"

    return make


def test_phases_follow_each_other_from_the_best_weights(fsl, mine, glyph_root):
    code, out, err = fsl("metatrain", "--recipe", mine(), "--run-dir", "run", "--data-root", glyph_root)
    assert code == 0, err
    summary = json.loads(out)
    assert list(summary["phases"]) == ["lsc", "ssm"] and summary["epochs"] == 4
    first, last, whole = (
        checkpoint.load(Path(p))
        for p in ("run/lsc/weights.safetensors", "run/ssm/weights.safetensors", summary["weights"])
    )
    assert not any("offsets" in name for name in first.tensors) and first.sidecar["head"]["manipulate"] is False
    moved = {
        name for name, x in last.tensors.items() if name not in first.tensors or not torch.equal(x, first.tensors[name])
    }
    counted = {n for n in moved if n.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")}
    assert {n for n in moved - counted if not n.startswith("head.offsets.")} == {
        "head.scale"
    }  # the rest was not trained
    assert any(n.startswith("head.offsets.last") for n in moved)
    assert (
        all(torch.equal(x, last.tensors[n]) for n, x in whole.tensors.items())
        and whole.sidecar["phases"]["lsc"]["epoch"] >= 1
    )
    rates = [json.loads(line)["lr"] for line in Path("run/ssm/log.jsonl").read_text().splitlines()]
    assert rates == [0.01, 0.01]
    code, out, err = fsl(
        "eval",
        "--recipe",
        "mine.yaml",
        "--weights",
        summary["weights"],
        "--data-root",
        glyph_root,
        "--episodes",
        "5",
        "--format",
        "json",
    )
    assert code == 0 and json.loads(out)["head"] == "align" and json.loads(out)["solver"] is None, err
    again = fsl("metatrain", "--recipe", "mine.yaml", "--run-dir", "run", "--data-root", glyph_root, "--resume")
    assert again[0] == 0 and json.loads(again[1]) == summary


def test_a_killed_run_goes_on_in_its_phase_and_ends_with_the_same_bytes(mine, glyph_root, tmp_path):
    words = [
        "metatrain",
        "--recipe",
        mine(epochs=60),
        "--data-root",
        str(glyph_root),
        "--set",
        "metatrain.validation.every=30",
    ]

    def started(
        *more: str,
    ) -> subprocess.Popen:  # all in processes of their own: what ran before in this one changes its rounding
        return subprocess.Popen(
            [sys.executable, "-m", "fewshot_cli", *words, *more],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "COLUMNS": "80"},
        )

    process = started("--run-dir", "a")
    log = tmp_path / "a/lsc/log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= log.read_bytes().count(b"\n") < 60 and not (tmp_path / "a/ssm").exists()
    assert started("--run-dir", "a", "--resume").wait() == started("--run-dir", "b").wait() == 0
    for name in ("weights.safetensors", "lsc/weights.safetensors", "ssm/log.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_order_of_phases_is_part_of_a_run(fsl, mine, glyph_root):
    first = load_recipe(mine())
    swapped = Path("mine.yaml").read_text().splitlines()
    Path("mine.yaml").write_text("\n".join([*swapped[:-2], swapped[-1], swapped[-2]]))
    assert load_recipe("mine.yaml").identity() != first.identity()
    assert first.start == "glyphs_conv64"  # none is no name of weights


def test_what_a_phase_asks_for_is_checked_before_anything_runs(fsl, mine, glyph_root):
    mine()
    for words, said in (
        (("--set", "metatrain.phases.lsc.options={manipulat: false}"), "did you mean 'manipulate'"),
        (("--set", "metatrain.phases.lsc.epoch=3"), "did you mean 'epochs'"),
        (
            ("--set", "metatrain.train=[head.offset]", "--set", "metatrain.phases=null"),
            "nothing to train called head.offset; there are backbone, head.scale, head.foreground",
        ),
        (("--set", "metatrain.phases.ssm.train=[bckbone]", "--dry-run"), "nothing to train called bckbone"),
    ):
        code, _, err = fsl("metatrain", "--recipe", "mine.yaml", "--data-root", glyph_root, "--run-dir", "run", *words)
        assert code == 2 and said in err, err
    with pytest.raises(RecipeError, match="phases"):
        load_recipe("mine.yaml", ["metatrain.phases={a/b: {epochs: 1}}"])


def test_two_processes_train_what_one_does(mine, glyph_root, tmp_path):
    words = [
        "metatrain",
        "--recipe",
        mine(1),
        "--data-root",
        str(glyph_root),
        "--set",
        "metatrain.episodes_per_step=2",
        "--set",
        "metatrain.optimizer={name: sgd, lr: 0.01}",
    ]
    words += ["--set", "head.correspondence=plan"]  # through an exact plan g gets no gradient, for which none must wait
    for name, more in (("one", ()), ("two", ("--devices", "2"))):
        done = subprocess.run(
            [sys.executable, "-m", "fewshot_cli", *words, "--run-dir", name, "--device", "cpu", *more],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    one, two = (checkpoint.load(tmp_path / name / "lsc/weights.safetensors").tensors for name in ("one", "two"))
    start = build_backbone(load_recipe("mine.yaml")).state_dict()
    flat = [
        torch.cat([x[f"{of}{k}"].flatten() for k in start if k.endswith("weight")])
        for x, of in ((one, "backbone."), (two, "backbone."), (start, ""))
    ]
    moved, apart = (float((flat[0] - other).norm()) for other in (flat[2], flat[1]))
    # rounding: of batch norm in other layouts, and at zero offsets, where a deformable convolution has a slope on
    # either side
    assert moved > 1e-3 and apart < 0.3 * moved, (moved, apart)
