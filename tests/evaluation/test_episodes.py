"""Evaluation: the same bytes however it is cut, killed or threaded; formats, gates, comparison and the layer
artefact.
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
import yaml
from PIL import Image

from fewshot_cli.config.load import default_part, load_recipe
from fewshot_cli.config.parts import build_backbone, build_head
from fewshot_cli.data.store import open_store
from fewshot_cli.evaluation import episodes as evaluation
from fewshot_cli.weights import checkpoint

BASE = ["--set", "backbone.channels=8"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A small backbone with random weights."""
    loaded = load_recipe("glyphs_5w1s", ["backbone.channels=8"])
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    sidecar = {"backbone": {"name": "conv64", "channels": 8, "last_pool": False}}
    checkpoint.save(path, {"backbone": build_backbone(loaded)}, sidecar)
    return path


@pytest.fixture
def evaluate(fsl, glyph_root, weights):
    def run(*more: str):
        return fsl("eval", *BASE, "--weights", weights, "--data-root", glyph_root, *more)

    return run


def episodes(path: Path) -> str:
    return hashlib.sha256((path / "episodes.jsonl").read_bytes()).hexdigest()


def test_json_holds_every_field_and_the_record_adds_up(evaluate, tmp_path):
    code, out, _ = evaluate("--episodes", "12", "--format", "json", "--run-dir", tmp_path / "r")
    assert code == 0
    got = json.loads(out)
    for key in (
        "recipe",
        "dataset",
        "head",
        "solver",
        "way",
        "shot",
        "episodes",
        "accuracy",
        "ci95",
        "not_converged",
        "seconds",
        "seed",
        "hashes",
        "versions",
    ):
        assert key in got, key
    assert {"embedding", "matching", "total"} <= set(got["seconds"]) and {"weights", "data"} <= set(got["hashes"])
    lines = [json.loads(line) for line in (tmp_path / "r" / "episodes.jsonl").read_text().splitlines()]
    assert [line["episode"] for line in lines] == list(range(12))
    mean = sum(line["correct"] for line in lines) / sum(line["queries"] for line in lines)
    assert abs(got["accuracy"] - 100 * mean) < 1e-9 and 0 < got["ci95"] < 20
    assert json.loads((tmp_path / "r" / "summary.json").read_text()) == got | {"seconds": None}
    assert json.loads((tmp_path / "r" / "seconds.json").read_text()) == {"/seconds": got["seconds"]}


@pytest.mark.parametrize("head", ["emd", "sfc"])
def test_batch_and_workers_change_no_byte(evaluate, tmp_path, head):
    more = ["--set", f"head={head}", "--episodes", "9"]
    if head == "sfc":
        more += ["--set", "episode.shot=2", "--set", "head.passes=2"]
    seen = set()
    for i, (batch, workers) in enumerate([(1, 1), (4, 2), (9, 3), (0, 0)]):
        code, _, err = evaluate(
            *more, "--batch", batch, "--set", f"solver.workers={workers}", "--run-dir", tmp_path / str(i)
        )
        assert code == 0, err
        seen.add(episodes(tmp_path / str(i)))
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["emd", "sfc", "prototype"])
def test_queries_of_a_large_episode_are_scored_part_by_part(monkeypatch, name):
    torch.manual_seed(0)
    support, query, seen = torch.rand(1, 4, 2, 8, 3, 3), torch.rand(1, 20, 8, 3, 3), []
    head = build_head(default_part("heads", name), 8, default_part("solvers", "network_simplex")).eval()
    whole, plain = evaluation._logits(head, support, query), head.forward
    monkeypatch.setattr(evaluation, "BUDGET", head.elements(4, 2, 1, 9))
    monkeypatch.setattr(head, "forward", lambda s, q: seen.append(q.shape[1]) or plain(s, q))
    assert torch.allclose(whole, evaluation._logits(head, support, query), atol=1e-5)
    assert len(seen) > 3 and sum(seen) == 20


@pytest.mark.slow
def test_killed_and_resumed_equals_unbroken(glyph_root, weights, tmp_path):
    def command(path: Path, *more: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "fewshot_cli",
            "eval",
            *BASE,
            "--weights",
            str(weights),
            "--data-root",
            str(glyph_root),
            "--episodes",
            "400",
            "--batch",
            "2",
            "--run-dir",
            str(path),
            *more,
        ]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), check=True, capture_output=True)
    process = subprocess.Popen(command(broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log, deadline = broken / "episodes.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 20):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 20 <= log.read_bytes().count(b"\n") < 400
    with log.open("ab") as file:  # a torn last line, as a crash of the machine leaves it
        file.write(b'{"episode": 99, "cor')
    done = subprocess.run(command(broken, "--resume"), capture_output=True, text=True)
    assert done.returncode == 0 and "resuming after" in done.stderr
    assert episodes(broken) == episodes(whole)


def test_features_are_cached_and_solvers_agree_on_predictions(evaluate, tmp_path, glyph_root):
    runs = {}
    for solver in ("opencv", "pot"):
        code, out, _ = evaluate(
            "--episodes", "20", "--solver", solver, "--format", "json", "--run-dir", tmp_path / solver
        )
        assert code == 0
        runs[solver] = json.loads(out)
    assert runs["opencv"]["accuracy"] == runs["pot"]["accuracy"]
    assert list((glyph_root / "features").glob("*.safetensors"))
    for damaged in (glyph_root / "features").glob("*.safetensors"):
        damaged.write_bytes(damaged.read_bytes()[:1000])
    code, out, err = evaluate("--episodes", "20", "--format", "json", "--run-dir", tmp_path / "again")
    assert code == 0 and "made again" in err
    assert json.loads(out)["accuracy"] == runs["pot"]["accuracy"]


def test_every_format_parses(evaluate):
    _, out, _ = evaluate("--episodes", "3", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["recipe"] == "glyphs_5w1s" and 0 <= float(row["accuracy %"]) <= 100
    _, out, _ = evaluate("--episodes", "3", "--format", "md")
    assert len(out.strip().splitlines()) == 3 and out.startswith("| recipe")
    _, out, _ = evaluate("--episodes", "3", "--format", "junit")
    assert ET.fromstring(out).attrib["tests"] == "1"
    _, out, _ = evaluate("--episodes", "3")
    assert "± 95 %" in out and "5-way 1-shot" in out


@pytest.mark.parametrize(("accuracy", "code"), [(20.0, 0), (100.0, 1)])
def test_check_gates(fsl, tiny, pretrained, tmp_path, accuracy, code):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"base: {tiny.recipe}\nexpect: {{accuracy: {accuracy}, tolerance: 0.05, source: a test}}\n")
    words = ("--data-root", tiny.root, "--weights", pretrained / "weights.safetensors", "--format", "junit")
    got, out, err = fsl("eval", "--recipe", mine, *words, "--check")
    assert got == code, err
    assert ET.fromstring(out).attrib["failures"] == str(code)


def test_strict_exits_four_when_a_solver_gives_up(evaluate):
    given_up = ["--solver", "pot", "--set", "solver.max_iterations=1", "--episodes", "2"]
    code, out, err = evaluate(*given_up, "--strict")
    assert code == 4 and "did not converge" in err and "WARNING" in out
    code, out, _ = evaluate(*given_up)
    assert code == 0 and "WARNING" in out


def test_compare_pairs_the_same_episodes(evaluate, fsl, tmp_path):
    evaluate("--episodes", "15", "--run-dir", tmp_path / "a")
    evaluate("--episodes", "15", "--set", "head=prototype", "--run-dir", tmp_path / "b")
    code, out, _ = fsl("compare", "--format", "json", tmp_path / "a", tmp_path / "b")
    got = json.loads(out)
    assert code == 0 and got["episodes"] == 15
    assert abs(got["first"]["accuracy"] - got["second"]["accuracy"] - got["difference"]["accuracy"]) < 1e-9
    evaluate("--episodes", "15", "--seed", "5", "--run-dir", tmp_path / "c")
    code, _, err = fsl("compare", "--format", "json", tmp_path / "a", tmp_path / "c")
    assert code == 3 and "differs" in err


def test_printed_configuration_is_a_recipe(evaluate, fsl, tmp_path):
    _, out, _ = evaluate("--print-config", "--solver", "pot")
    assert yaml.safe_load(out)["solver"]["name"] == "pot"
    (tmp_path / "again.yaml").write_text(out)
    code, _, err = fsl("recipe", "check", tmp_path / "again.yaml")
    assert code == 0, err


def test_dry_run_checks_and_leaves_nothing(evaluate, tmp_path):
    code, out, err = evaluate("--dry-run")
    assert code == 0 and out == "" and "in order" in err
    assert not (tmp_path / "runs").exists()


def test_a_layer_learned_on_a_folder_scores_a_folder(fsl, glyph_root, weights, tmp_path):
    split = open_store(glyph_root, "glyphs").split("test")
    images, _ = split.decode(32)
    for c, cls in enumerate(split.classes[:3]):
        for i, index in enumerate(split.members()[c][:12].tolist()):
            folder = tmp_path / ("support" if i < 3 + c else "query") / cls  # classes of 3, 4 and 5 examples
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index].permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    common = ["--recipe", "glyphs_5w5s", *BASE, "--set", "head.passes=5", "--weights", weights]
    code, out, err = fsl("finetune-sfc", *common, "--support", tmp_path / "support", "--run-dir", tmp_path / "c")
    assert code == 0, err
    made, classifier = json.loads(out), tmp_path / "c" / "classifier.safetensors"
    assert made["pictures"] == 12 and classifier.with_name("classifier.safetensors.json").exists()
    code, out, _ = fsl(
        "finetune-sfc", *common, "--support", tmp_path / "support", "--run-dir", tmp_path / "c", "--resume"
    )
    assert code == 0 and json.loads(out) == made
    code, out, err = fsl("eval", *common, "--classifier", classifier, "--query", tmp_path / "query", "--format", "json")
    assert code == 0, err
    got = json.loads(out)
    assert got["pictures"] == 24 and got["way"] == 3 and 0 < got["ci95"] < 25
    _, out, _ = fsl("eval", *common, "--classifier", classifier, "--query", tmp_path / "support", "--format", "json")
    assert abs(json.loads(out)["accuracy"] - made["support_accuracy"]) < 1e-4
    code, _, err = fsl(
        "eval", *common, "--set", "head.norm=cosine", "--classifier", classifier, "--query", tmp_path / "query"
    )
    assert code == 3 and "was learned with head.norm center, recipe glyphs_5w5s has cosine" in err
    other = ("--set", "head.passes=3", "--run-dir", "again")  # how it was learned no longer matters
    assert fsl("eval", *common, *other, "--classifier", classifier, "--query", tmp_path / "query")[0] == 0
    code, _, err = fsl(
        "eval", *common, "--set", "image.mean=[0, 0, 0]", "--classifier", classifier, "--query", tmp_path / "query"
    )
    assert code == 3 and "other image" in err
    shutil.rmtree(tmp_path / "support" / split.classes[0])
    shutil.rmtree(tmp_path / "support" / split.classes[1])
    code, _, err = fsl("finetune-sfc", *common, "--support", tmp_path / "support")
    assert code == 3 and "at least two" in err


def test_help_is_fast_and_imports_no_torch():
    probe = "import sys, fewshot_cli.cli.app; print(any(m in sys.modules for m in ('torch', 'pydantic', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "False"
    out = subprocess.run([sys.executable, "-m", "fewshot_cli", "--help"], capture_output=True, text=True).stdout
    for verb in ("prepare", "pretrain", "metatrain", "finetune-sfc", "eval"):
        assert re.search(rf"\b{verb}\b", out)


def test_a_run_of_another_version_says_which_key_it_lacks(fsl, glyph_root):
    words = ("eval", "--recipe", "glyphs_5w1s", "--episodes", "5", "--data-root", glyph_root, "--run-dir", "run")
    assert fsl(*words)[0] == 0
    config = json.loads(Path("run/config.json").read_text())
    del config["identity"]["recipe"]["eval"]["without"]
    Path("run/config.json").write_text(json.dumps({**config, "key": "older"}))
    code, _, err = fsl(*words, "--resume")
    assert code == 3 and "another configuration (recipe.eval.without)" in err


def test_a_solver_that_nothing_needs_is_noted(fsl, glyph_root):
    words = ("eval", "--episodes", "5", "--data-root", glyph_root, "--solver", "pot")
    code, _, err = fsl(*words, "--recipe", "glyphs_5w1s_prototype")
    assert code == 0 and "prototype poses no transport problems here, so --solver changed nothing" in err
    assert "changed nothing" not in fsl(*words, "--recipe", "glyphs_5w1s")[2]
