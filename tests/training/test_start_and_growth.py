"""Pre-training from given weights, and on images that grow."""

import json
from pathlib import Path

import pytest
import torch

from fewshot_cli.backbones.conv64 import Conv64
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import GrowSpec
from fewshot_cli.training import pretrain as module
from fewshot_cli.weights import checkpoint


def test_the_input_grows_in_steps_of_eight_until_its_share_of_the_epochs():
    grow = GrowSpec(start=16, share=0.5)
    assert [grow.side(48, epoch, 10) for epoch in range(10)] == [16, 24, 32, 32, 40, 48, 48, 48, 48, 48]
    assert [GrowSpec(start=8, share=1.0).side(30, epoch, 4) for epoch in range(4)] == [8, 16, 16, 24]
    assert [GrowSpec().side(84, epoch, 3) for epoch in range(3)] == [84] * 3


def test_each_epoch_sees_images_of_its_side(fsl, tiny, monkeypatch):
    seen, forward = [], module.ClassObjective.forward

    def watched(self, batch):
        seen.append(tuple(batch[0].shape[2:]))
        return forward(self, batch)

    monkeypatch.setattr(module.ClassObjective, "forward", watched)
    words = ("--set", "pretrain.epochs=4", "--set", "pretrain.grow={start: 8, share: 0.5}")
    code, _, err = fsl("pretrain", *tiny.words, *words, "--set", "pretrain.mix={cutmix: 1.0}")
    steps = 12 * 16 // 64
    assert code == 0 and seen == [(8, 8)] * steps + [(16, 16)] * 3 * steps, err
    code, _, err = fsl("pretrain", *tiny.words, "--set", "pretrain.grow.start=24")
    assert code == 2 and "pretrain.grow.start: 24 lies above the side 16 of training" in err


@pytest.mark.parametrize("verb", ["pretrain", "metatrain"])
def test_training_may_see_smaller_images_than_testing(fsl, tiny, pretrained, monkeypatch, verb):
    seen, forward = [], Conv64.forward

    def watched(self, images):
        seen.append((self.training, images.shape[-1]))
        return forward(self, images)

    monkeypatch.setattr(Conv64, "forward", watched)
    weights = ("--weights", pretrained / "weights.safetensors") if verb == "metatrain" else ()
    code, _, err = fsl(verb, *tiny.words, *weights, "--set", f"{verb}.size=8")
    assert code == 0 and set(seen) == {(True, 8), (False, 16)}, err


@pytest.mark.parametrize("by_name", [False, True])
def test_training_starts_from_given_weights(fsl, tiny, pretrained, monkeypatch, by_name):
    path = pretrained / "weights.safetensors"
    if by_name:
        monkeypatch.setattr("fewshot_cli.weights.installed.names", lambda: ["mine"])
        monkeypatch.setattr("fewshot_cli.weights.installed.file", lambda name: path)
        monkeypatch.setattr("fewshot_cli.weights.installed.label", lambda name: f"shipped:{name}")
    still = ("--set", "pretrain.optimizer={lr: 1e-30, weight_decay: 0}", "--set", "pretrain.epochs=1")
    start = ("--set", f"pretrain.start={'mine' if by_name else path}")
    code, out, err = fsl("pretrain", *tiny.words, *still, *start)
    assert code == 0, err
    theirs, ours = checkpoint.load(path), checkpoint.load(Path(json.loads(out)["weights"]))
    learned = [key for key in theirs.tensors if "running" not in key and "batches" not in key]
    assert len(learned) > 10 and all(torch.equal(theirs.tensors[key], ours.tensors[key]) for key in learned)
    assert ours.sidecar["start"] == theirs.sha256


def test_weights_of_another_network_are_no_start(fsl, tiny, pretrained):
    start = ("--set", f"pretrain.start={pretrained / 'weights.safetensors'}", "--set", "backbone.channels=9")
    code, _, err = fsl("pretrain", *tiny.words, *start)
    assert code == 3 and "the backbone needs [9, 3, 3, 3]" in err
    code, _, err = fsl("pretrain", *tiny.words, "--set", "pretrain.start=nobody")
    assert code == 3 and "nobody: no such weights" in err


def test_a_classifier_of_other_classes_stays_random(fsl, tiny, pretrained, tmp_path):
    made = checkpoint.load(pretrained / "weights.safetensors")
    sidecar = {k: v for k, v in made.sidecar.items() if k != "sha256"}
    other = {**sidecar, "classes": [f"other {name}" for name in sidecar["classes"]]}
    checkpoint.save_tensors(tmp_path / "other.safetensors", made.tensors, other)
    still = ("--set", "pretrain.optimizer={lr: 1e-30, weight_decay: 0}", "--set", "pretrain.epochs=1")
    kept = {}
    for name, path in (("same", pretrained / "weights.safetensors"), ("other", tmp_path / "other.safetensors")):
        code, out, err = fsl("pretrain", *tiny.words, *still, "--set", f"pretrain.start={path}")
        assert code == 0, err
        kept[name] = checkpoint.load(Path(json.loads(out)["weights"])).tensors
    layers = [key for key in made.tensors if key.startswith("classifier.") and made.tensors[key].ndim == 2]
    assert layers and all(torch.equal(kept["same"][key], made.tensors[key]) for key in layers)
    assert not any(torch.equal(kept["other"][key], made.tensors[key]) for key in layers)


def test_a_first_side_that_the_backbone_makes_nothing_of_is_refused(fsl, tiny):
    code, _, err = fsl(
        "pretrain", *tiny.words, "--dry-run", "--set", "backbone.last_pool=true", "--set", "pretrain.grow.start=8"
    )
    assert code == 2 and "pretrain.grow.start: backbone conv64 gives no map of images of 8×8; raise it" in err


def test_runs_of_before_and_moved_weights_go_on(tmp_path):
    plain = load_recipe("glyphs_5w1s").identity()["pretrain"]
    assert "grow" not in plain and "start" not in plain
    other = load_recipe("glyphs_5w1s", ["pretrain.start=a.safetensors", "pretrain.grow.start=16"]).identity()[
        "pretrain"
    ]
    assert "start" not in other and other["grow"]["start"] == 16
