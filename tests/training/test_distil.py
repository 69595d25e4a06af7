"""A teacher in pre-training: its loss against the formula, what its weight does, and weights that cannot teach."""

import json
from pathlib import Path

import pytest
import torch

from fewshot_cli.training.distil import divergence
from fewshot_cli.weights import checkpoint


def distilled(path: Path, **options: object) -> tuple[str, str]:
    return "--set", "pretrain.distil=" + json.dumps({"teacher": str(path), **options})


def test_divergence_is_the_formula():
    rng = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(6, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = (torch.exp(x / 3) / torch.exp(x / 3).sum() for x in (t, s))
        total += sum(9 * float(a * torch.log(a / b)) for a, b in zip(p, q, strict=True)) / 6
    assert divergence(student, teacher, 3.0).item() == pytest.approx(total, rel=1e-12)


def test_a_student_follows_its_teacher_alone_when_the_labels_have_no_share(fsl, tiny, pretrained):
    """Training from the teacher's own weights, its answers are the optimum: the loss starts where labels never get."""
    path = pretrained / "weights.safetensors"
    still = ("--set", "pretrain.optimizer={lr: 1e-30, weight_decay: 0}", "--set", "pretrain.epochs=1")
    start = ("--set", f"pretrain.start={path}")
    losses = {}
    for weight in (0.0, 0.25, 1.0):
        code, out, err = fsl("pretrain", *tiny.words, *still, *start, *distilled(path, weight=weight))
        assert code == 0, err
        run = Path(json.loads(out)["weights"]).parent
        losses[weight] = json.loads((run / "log.jsonl").read_text().splitlines()[0])["loss"]
        assert checkpoint.load(run / "weights.safetensors").sidecar["teacher"] == checkpoint.load(path).sha256
    assert losses[0.25] == pytest.approx(0.75 * losses[0.0] + 0.25 * losses[1.0], rel=1e-5)
    assert 0 < losses[1.0] < losses[0.0]


def test_another_teacher_is_another_run(fsl, tiny, pretrained, tmp_path):
    path = pretrained / "weights.safetensors"
    code, _, err = fsl("pretrain", *tiny.words, "--run-dir", tmp_path / "run", *distilled(path))
    assert code == 0, err
    made = checkpoint.load(path)
    sidecar = {k: v for k, v in made.sidecar.items() if k != "sha256"}
    other = {key: -x if key.startswith("classifier") else x for key, x in made.tensors.items()}
    checkpoint.save_tensors(tmp_path / "other.safetensors", other, sidecar)
    again = ("pretrain", *tiny.words, "--run-dir", tmp_path / "run", "--resume")
    code, _, err = fsl(*again, *distilled(tmp_path / "other.safetensors"))
    assert code == 3 and "teacher" in err
    assert fsl(*again, *distilled(path))[0] == 0


def test_weights_of_other_classes_do_not_teach(fsl, tiny, pretrained, tmp_path):
    made = checkpoint.load(pretrained / "weights.safetensors")
    sidecar = {k: v for k, v in made.sidecar.items() if k != "sha256"}
    checkpoint.save_tensors(tmp_path / "other.safetensors", made.tensors, {**sidecar, "classes": ["a", "b"]})
    code, _, err = fsl("pretrain", *tiny.words, "--dry-run", *distilled(tmp_path / "other.safetensors"))
    assert code == 3 and "pretrain.distil.teacher" in err and "its classifier teaches nothing" in err
