"""A search: validation decides and the test split is refused, pruning, and a killed search that goes on."""

import csv
import io
import json
from pathlib import Path

import pytest

from fewshot_cli.training import watch

TRAINING = """
recipe: {recipe}
set: {{pretrain.epochs: 2}}
search:
  trials: 3
  space:
    pretrain.optimizer.lr: {{low: 1e-3, high: 1e-1, log: true}}
    pretrain.augment.crop: [pad, none]
"""
EVALUATION = """
recipe: glyphs_5w1s
set: {eval.episodes: 4}
search:
  verb: eval
  sampler: random
  trials: 4
  space:
    head: [emd, {name: prototype, distance: cosine}]
    image.size: {low: 28, high: 32, step: 4}
"""


@pytest.fixture
def training(tmp_path, tiny):
    (tmp_path / "s.yaml").write_text(TRAINING.format(recipe=tiny.recipe))
    return ("sweep", "s.yaml", "--data-root", tiny.root, "--format", "csv", "--run-dir")


def test_a_killed_search_goes_on_and_ends_as_an_uninterrupted_one(children, training, tmp_path):
    whole = children.run(*training, "run", cwd=tmp_path, check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = (training[0], tmp_path / "s.yaml", *training[2:], "run")
    stop = {"FSL_STOP_AT": "log.jsonl:4"}  # the second trial's second epoch is logged, its state not yet saved
    assert children.run(*words, cwd=elsewhere, environment=stop).returncode == -9
    resumed = children.run(*words, "--resume", cwd=elsewhere, check=True)
    assert resumed.stdout == whole.stdout and "resuming after epoch 1" in resumed.stderr
    rows = list(csv.DictReader(io.StringIO(whole.stdout)))
    assert len(rows) == 3 and len({row["pretrain.optimizer.lr"] for row in rows}) == 3
    accuracies = [float(row["accuracy"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    best = json.loads((tmp_path / rows[0]["run_dir"] / "summary.json").read_text())["best"]
    assert best["accuracy"] == accuracies[0]
    assert f"--weights {rows[0]['run_dir']}/weights.safetensors" in whole.stderr


def test_a_trial_that_validates_worse_than_the_others_is_pruned(fsl, tiny, tmp_path, monkeypatch):
    from fewshot_cli.training import optimise

    text = TRAINING.format(recipe=tiny.recipe).replace("trials: 3", "trials: 8")
    (tmp_path / "s.yaml").write_text(text)
    epochs = []

    def trained(run, spec, job, processes, seed, tensorboard):
        """Trials that get worse from one to the next, without training."""
        number = int(run.path.name)
        for epoch in (1, 2):
            epochs.append((number, epoch))
            validation = {"accuracy": 50.0 - number, "ci95": 1.0}
            watch.tell({"epoch": epoch, "lr": 0.1, "loss": 1.0, "train_accuracy": 1.0, "validation": validation})
        return {"epochs": 2, "best": {"epoch": 1, **validation}, "weights": "", "sha256": ""}

    monkeypatch.setattr(optimise, "fit", trained)
    monkeypatch.setattr("fewshot_cli.training.pretrain.fit", trained)
    code, out, err = fsl("sweep", "s.yaml", "--data-root", tiny.root, "--format", "json", "--run-dir", "s")
    assert code == 0, err
    states = {r["trial"]: r["state"] for r in json.loads(out)["records"]}
    assert [states[number] for number in range(8)] == ["complete"] * 5 + ["pruned"] * 3
    assert epochs[-3:] == [(5, 1), (6, 1), (7, 1)] and "trial 5: pruned after epoch 1" in err


def test_options_of_evaluation_are_chosen_on_validation_classes(fsl, glyph_root, tmp_path):
    (tmp_path / "e.yaml").write_text(EVALUATION)
    words = ("sweep", "e.yaml", "--data-root", glyph_root, "--run-dir", "s")
    code, out, err = fsl(*words, "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    assert len(result["records"]) == 4 and result["split"] == "val"
    for r in result["records"]:
        summary = json.loads((Path(r["run_dir"]) / "summary.json").read_text())
        assert summary["split"] == "val" and summary["accuracy"] == r["accuracy"]
        assert r["values"]["image.size"] in (28, 32)
    assert err.splitlines()[-1].startswith("next: fsl eval --recipe glyphs_5w1s --set 'head=")
    (tmp_path / "e.yaml").write_text(EVALUATION.replace("trials: 4", "trials: 5"))
    code, out, err = fsl(*words, "--resume", "--format", "json")
    assert code == 0 and len(json.loads(out)["records"]) == 5 and "trial 4: " in err and "trial 3: " not in err


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("eval.episodes: 4", "eval.split: test", "never on the test split"),
        ("image.size: {low: 28, high: 32, step: 4}", "eval.split: [val, test]", "never on the test split"),
        ("image.size:", "seed:", "decides what is measured"),
        ("image.size:", "episode.way:", "decides what is measured"),
        ("image.size:", "pretrain.epochs:", "changes nothing of eval"),
        ("image.size:", "imag.size:", "did you mean 'image'"),
        ("search:", "seeds: 2\nsearch:", "takes one recipe, and set"),
    ],
)
def test_a_search_that_cannot_be_is_refused(fsl, tmp_path, old, new, sentence):
    (tmp_path / "e.yaml").write_text(EVALUATION.replace(old, new))
    code, out, err = fsl("sweep", "e.yaml")
    assert code == 2 and sentence in err and not out and not Path("runs").exists()


def test_what_only_a_comparison_has_is_refused(fsl, tmp_path):
    (tmp_path / "e.yaml").write_text(EVALUATION)
    code, _, err = fsl("sweep", "e.yaml", "--baseline", "emd")
    assert code == 2 and "--baseline: a search has no such thing" in err
    code, _, err = fsl("sweep", "e.yaml", "--set", "eval.split=test")
    assert code == 2 and "never on the test split" in err


def test_who_watches_is_told_only_inside_the_block():
    told = []
    with watch.watching(told.append):
        watch.tell({"epoch": 1})
    watch.tell({"epoch": 2})
    assert told == [{"epoch": 1}]


@pytest.fixture
def broken(monkeypatch):
    """Trials of these numbers fail, as one without memory would, while the list holds them."""
    from fewshot_cli.errors import DataError
    from fewshot_cli.laboratory import search

    numbers, evaluate = [1], search.evaluate_episodes

    def evaluated(recipe, root, place, *rest, **more):
        if int(place.name) in numbers:
            raise DataError("no memory left")
        return evaluate(recipe, root, place, *rest, **more)

    monkeypatch.setattr(search, "evaluate_episodes", evaluated)
    return numbers


def test_a_failed_trial_stops_no_other_and_is_tried_again_on_resume(fsl, glyph_root, tmp_path, broken):
    (tmp_path / "e.yaml").write_text(EVALUATION)
    words = ("sweep", "e.yaml", "--data-root", glyph_root, "--run-dir", "s", "--format", "json")
    code, out, err = fsl(*words)
    first = {r["trial"]: r for r in json.loads(out)["records"]}
    assert code == 0 and len(first) == 4 and first[1]["state"] == "failed" and first[1]["failed"] == "no memory left"
    assert "trial 1: failed: no memory left" in err
    broken.clear()
    code, out, err = fsl(*words, "--resume")
    again = {r["trial"]: r for r in json.loads(out)["records"]}
    assert code == 0 and again[1]["state"] == "complete" and "failed" not in again[1]
    assert again[1]["values"] == first[1]["values"] and "trial 0: " not in err
    assert [again[n] for n in (0, 2, 3)] == [first[n] for n in (0, 2, 3)]


def test_a_search_whose_trials_all_fail_is_not_finished(fsl, glyph_root, tmp_path, broken):
    broken[:] = range(4)
    (tmp_path / "e.yaml").write_text(EVALUATION)
    words = ("sweep", "e.yaml", "--data-root", glyph_root, "--run-dir", "s")
    code, out, err = fsl(*words)
    assert code == 3 and not out and "no trial gave a validation (no memory left); --resume --run-dir s" in err
    assert not Path("s/summary.json").exists()
    broken.clear()
    assert fsl(*words, "--resume")[0] == 0 and Path("s/summary.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("image.size:", "image.sise:", "did you mean"),
        ("[emd, {name", "[emdd, {name", "search: space: head: emdd: "),
        ("low: 28", "low: 0", "search: space: image.size: 0: "),
        ("    image.size: {low: 28, high: 32, step: 4}", "    head.no_such_option: [1]", "no_such_option"),
    ],
)
def test_a_value_that_no_trial_can_have_is_refused_before_the_first(fsl, glyph_root, tmp_path, old, new, sentence):
    (tmp_path / "e.yaml").write_text(EVALUATION.replace(old, new))
    code, out, err = fsl("sweep", "e.yaml", "--dry-run")
    assert code == 2 and sentence in err and not out


def test_an_option_of_one_of_the_parts_that_are_tried_is_in_order(fsl, glyph_root, tmp_path):
    text = EVALUATION.replace("[emd, {name: prototype, distance: cosine}]", "[emd, prototype]")
    (tmp_path / "e.yaml").write_text(
        text.replace("image.size: {low: 28, high: 32, step: 4}", "head.distance: [cosine]")
    )
    assert fsl("sweep", "e.yaml", "--dry-run")[0] == 0
