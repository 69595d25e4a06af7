"""The protocol classification: trained and evaluated on the same classes, through the command line."""

import json
from pathlib import Path

import pytest
import torch
from bars import store, write

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone, build_classifier
from fewshot_cli.data.store import open_store
from fewshot_cli.features.preprocess import normalise
from fewshot_cli.weights import checkpoint, installed


@pytest.fixture
def plain(tmp_path):
    store(tmp_path / "data", "plain", {"train": 20, "test": 10})
    store(tmp_path / "data", "held", {"train": 20, "val": 6, "test": 10})
    return tmp_path / "data"


@pytest.mark.parametrize("classifier", ["linear", "{name: multi_proxy, proxies: 3}"])
def test_trained_classes_are_recognised_and_counted_as_a_loop_counts_them(fsl, plain, classifier):
    mine = write("mine.yaml", "plain", classifier)
    code, out, err = fsl("pretrain", "--recipe", mine, "--run-dir", "run")
    assert code == 0, err
    made = json.loads(out)
    assert made["best"] == {"epoch": 6} and "validation" not in Path("run/log.jsonl").read_text()
    code, out, err = fsl("eval", "--recipe", mine, "--weights", made["weights"], "--format", "json", "--run-dir", "e")
    assert code == 0, err
    got = json.loads(out)
    assert (got["classes"], got["pictures"]) == (7, 70) and got["accuracy"] > 60 and got["top5"] >= got["accuracy"]
    assert (got["iterations"] is None) == (classifier == "linear")
    loaded, weights = load_recipe(mine), checkpoint.load(Path(made["weights"]))
    backbone = build_backbone(loaded).eval()
    weights.fill(backbone, "backbone", "")
    own = build_classifier(loaded.pretrain.classifier, 8, 7, loaded.solver, torch.device("cpu")).eval()
    weights.fill(own, "classifier", "")
    split, lines = open_store(plain, "plain").split("test"), Path("e/predictions.jsonl").read_text().splitlines()
    with torch.no_grad():
        top = own(backbone(normalise(split.decode(16)[0], loaded.image))).topk(5, 1).indices
    for i, line in enumerate(lines):
        assert json.loads(line) == {
            "picture": i,
            "class": split.classes[split.labels[i]],
            "top": [split.classes[c] for c in top[i]],
        }
    hits = top == split.labels[:, None]
    assert got["accuracy"] == pytest.approx(100 * float(hits[:, 0].float().mean()))
    assert got["top5"] == pytest.approx(100 * float(hits.any(1).float().mean()))
    code, out, _ = fsl("eval", "--recipe", mine, "--weights", made["weights"])
    assert code == 0 and "top-5 %" in out and "7 classes" in out
    assert fsl("eval", "--recipe", mine, "--weights", made["weights"], "--format", "junit")[1].count("70 images") == 1


def test_the_best_epoch_is_that_of_the_validation_images(fsl, plain):
    mine = write("mine.yaml", "held", "linear")
    code, out, err = fsl("pretrain", "--recipe", mine, "--run-dir", "run")
    assert code == 0, err
    log = [json.loads(line)["validation"]["accuracy"] for line in Path("run/log.jsonl").read_text().splitlines()]
    assert len(log) == 6 and json.loads(out)["best"]["accuracy"] == max(log)
    code, out, _ = fsl(
        "eval", "--recipe", mine, "--weights", "run/weights.safetensors", "--set", "eval.split=val", "--format", "json"
    )
    assert json.loads(out)["accuracy"] == pytest.approx(max(log))


def test_weights_of_other_classes_or_without_a_classifier_are_refused(fsl, plain):
    mine = write("mine.yaml", "plain", "linear")
    assert fsl("pretrain", "--recipe", mine, "--run-dir", "run", "--set", "pretrain.epochs=1")[0] == 0
    store(plain, "other", {"train": 3, "test": 3}, shuffle=True)
    other = write("other.yaml", "other", "linear")
    code, _, err = fsl("eval", "--recipe", other, "--weights", "run/weights.safetensors")
    assert code == 3 and "has other classes than the weights were trained on" in err
    code, _, err = fsl("eval", "--recipe", mine, "--weights", installed.file("glyphs_conv64"))
    assert code == 3 and "holds no classifier, which protocol classification needs" in err


def test_few_shot_pretraining_takes_the_classifier_and_its_own_solver(fsl, tiny):
    Path("mine.yaml").write_text(f"""
base: {tiny.recipe}
pretrain:
  epochs: 2
  classifier: {{name: multi_proxy, proxies: 2}}
  solver: {{name: sinkhorn, regularisation: 0.1, stop: change, tolerance: 0.1, gradient: unrolled, max_iterations: 1}}
  validation: {{episodes: 5}}
""")
    code, out, err = fsl("pretrain", "--recipe", "mine.yaml", "--run-dir", "run", "--data-root", tiny.root)
    assert code == 0 and "validation" in err and "did not converge on" in err, err
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert [r["iterations"] for r in log] == [{"mean": 1.0, "spread": 0.0}] * 2
    train, batch = open_store(tiny.root, "tiny").split("train"), load_recipe("mine.yaml").pretrain.batch
    every = len(train) // batch * batch * len(train.classes)  # images of an epoch, with each class
    assert [r["not_converged"] for r in log] == [every, every]
    weights = json.loads(out)["weights"]
    code, out, err = fsl(
        "eval",
        "--recipe",
        "mine.yaml",
        "--weights",
        weights,
        "--episodes",
        "5",
        "--data-root",
        tiny.root,
        "--format",
        "json",
        "--set",
        "head=proxies",
    )
    assert code == 0 and json.loads(out)["solver"] == "network_simplex", err
    other = load_recipe("mine.yaml", ["pretrain.solver.max_iterations=2"]).identity()
    assert other != load_recipe("mine.yaml").identity()
