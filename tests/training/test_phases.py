"""Meta-training in phases, from random weights, and of some parts only."""

import json
import signal
from pathlib import Path

import pytest
import torch
from tiny import Tiny

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.errors import RecipeError
from fewshot_cli.weights import checkpoint

RECIPE = """
base: BASE
backbone: {name: conv64, channels: 8, third_pool: false, last_pool: false}
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


def text(tiny: Tiny, epochs: int) -> str:
    return RECIPE.replace("EPOCHS", str(epochs)).replace("BASE", str(tiny.recipe))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, children, tiny) -> Path:
    """A run of three epochs in each phase that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mine.yaml").write_text(text(tiny, 3))
    children.run(
        "metatrain", "--recipe", "mine.yaml", "--data-root", tiny.root, "--run-dir", "run", cwd=folder, check=True
    )
    return folder / "run"


@pytest.fixture
def mine(tmp_path, monkeypatch, tiny):
    """Write the recipe into the current folder: returns the options of every command that works on it."""
    monkeypatch.chdir(tmp_path)

    def make(epochs=2):
        Path("mine.yaml").write_text(text(tiny, epochs))
        return ("--recipe", "mine.yaml", "--data-root", str(tiny.root))

    return make


def test_phases_follow_each_other_from_the_best_weights(fsl, mine):
    words = mine()
    code, out, err = fsl("metatrain", *words, "--run-dir", "run")
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
    code, out, err = fsl("eval", *words, "--weights", summary["weights"], "--episodes", "5", "--format", "json")
    assert code == 0 and json.loads(out)["head"] == "align" and json.loads(out)["solver"] is None, err
    again = fsl("metatrain", *words, "--run-dir", "run", "--resume")
    assert again[0] == 0 and json.loads(again[1]) == summary


# In processes of their own: what ran before in one changes its rounding. The places are in either phase, and where the
# first one is complete and the second has not begun.
@pytest.mark.parametrize("place", ["log.jsonl:2", "summary.json:1", "state.pt:4"])
def test_a_killed_run_goes_on_in_its_phase_and_ends_with_the_same_bytes(mine, children, tmp_path, whole_run, place):
    words = ("metatrain", *mine(epochs=3), "--run-dir", "run")
    killed = children.run(*words, cwd=tmp_path, environment={"FSL_STOP_AT": place})
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "run/ssm").exists() == (place == "state.pt:4")
    children.run(*words, "--resume", cwd=tmp_path, check=True)
    for name in ("weights.safetensors", "lsc/weights.safetensors", "ssm/log.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole_run / name).read_bytes(), name


def test_the_order_of_phases_is_part_of_a_run(mine):
    mine()
    first = load_recipe("mine.yaml")
    swapped = Path("mine.yaml").read_text().splitlines()
    Path("mine.yaml").write_text("\n".join([*swapped[:-2], swapped[-1], swapped[-2]]))
    assert load_recipe("mine.yaml").identity() != first.identity()
    assert first.start == "mine"  # none is no name of weights


def test_what_a_phase_asks_for_is_checked_before_anything_runs(fsl, mine):
    recipe = mine()
    for words, said in (
        (("--set", "metatrain.phases.lsc.options={manipulat: false}"), "did you mean 'manipulate'"),
        (("--set", "metatrain.phases.lsc.epoch=3"), "did you mean 'epochs'"),
        (
            ("--set", "metatrain.train=[head.offset]", "--set", "metatrain.phases=null"),
            "nothing to train called head.offset; there are backbone, head.scale, head.foreground",
        ),
        (("--set", "metatrain.phases.ssm.train=[bckbone]", "--dry-run"), "nothing to train called bckbone"),
    ):
        code, _, err = fsl("metatrain", *recipe, "--run-dir", "run", *words)
        assert code == 2 and said in err, err
    with pytest.raises(RecipeError, match="phases"):
        load_recipe("mine.yaml", ["metatrain.phases={a/b: {epochs: 1}}"])


def test_two_processes_train_what_one_does(mine, children, tmp_path):
    words = ("metatrain", *mine(1), "--set", "metatrain.optimizer={name: sgd, lr: 0.01}")
    words += ("--set", "head.correspondence=plan")  # through an exact plan g gets no gradient, for which none must wait
    children.run(*words, "--run-dir", "one", cwd=tmp_path, check=True)
    for done in children.together(2, *words, "--run-dir", "two", cwd=tmp_path):
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
