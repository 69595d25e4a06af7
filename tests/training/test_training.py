"""Training on the embedded dataset: it learns, it stops on NaN, and a real kill changes no byte."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fewshot_cli.config.schema import AugmentSpec, ImageSpec, ScheduleSpec
from fewshot_cli.runtime.runs import fingerprint
from fewshot_cli.training.augment import apply, crop_boxes, draw, jitter
from fewshot_cli.training.optimise import generator, rate
from fewshot_cli.weights import checkpoint

TINY = [
    "backbone.channels=8",
    "pretrain.epochs=4",
    "pretrain.validation.episodes=5",
    "pretrain.validation.every=1",
    "metatrain.epochs=3",
    "metatrain.steps=3",
    "metatrain.episodes_per_step=1",
    "metatrain.query=3",
    "metatrain.validation.episodes=5",
    "pretrain.batch=256",
    "pretrain.ema=0.5",
    "pretrain.mix={cutmix: 1.0, share: 0.3}",
    "metatrain.ema=0.5",
]
SETS = [word for text in TINY for word in ("--set", text)]


def augment(images, sizes, spec, image, rng, extractor=None):
    return apply(images, draw(sizes, spec, image, rng, extractor), spec, image)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def command(verb: str, root: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "fewshot_cli",
        verb,
        *SETS,
        "--data-root",
        str(root),
        "--run-dir",
        str(run_dir),
        *more,
    ]


def kill_when(arguments: list[str], log: Path, lines: int) -> None:
    """Start a command and `kill -9` it once `log` has that many lines."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_bytes().count(b"\n") >= lines):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "it never got so far"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def pretrained(glyph_root, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    subprocess.run(command("pretrain", glyph_root, run), check=True, capture_output=True)
    return run


def test_pretraining_killed_and_resumed_ends_with_the_same_bytes(glyph_root, pretrained, tmp_path):
    broken = tmp_path / "broken"
    kill_when(command("pretrain", glyph_root, broken), broken / "log.jsonl", 2)
    assert not (broken / "summary.json").exists()
    done = subprocess.run(command("pretrain", glyph_root, broken, "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stderr
    for name in ("weights.safetensors", "log.jsonl"):
        assert digest(broken / name) == digest(pretrained / name), name


def test_pretraining_learns_and_metatraining_trains_on_through_the_transport(glyph_root, pretrained, tmp_path):
    log = [json.loads(line) for line in (pretrained / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"] < 4.5
    weights = str(pretrained / "weights.safetensors")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command("metatrain", glyph_root, whole, "--weights", weights), check=True, capture_output=True)
    before, after = checkpoint.load(Path(weights)), checkpoint.load(whole / "weights.safetensors")
    name = "backbone.blocks.0.0.weight"
    assert not torch.equal(before.tensors[name], after.tensors[name])
    assert after.sidecar["start"] == before.sha256 and after.sidecar["stage"] == "metatrain"
    kill_when(command("metatrain", glyph_root, broken, "--weights", weights), broken / "log.jsonl", 1)
    subprocess.run(
        command("metatrain", glyph_root, broken, "--weights", weights, "--resume"), check=True, capture_output=True
    )
    assert digest(broken / "weights.safetensors") == digest(whole / "weights.safetensors")


def test_a_changed_recipe_is_refused_on_resume(glyph_root, pretrained, fsl):
    code, _, err = fsl(
        "pretrain",
        *SETS,
        "--set",
        "pretrain.optimizer.lr=0.05",
        "--data-root",
        glyph_root,
        "--run-dir",
        pretrained,
        "--resume",
    )
    assert code == 3 and "pretrain.optimizer.lr" in err


def test_loss_that_is_not_finite_stops_with_a_sentence(glyph_root, fsl, tmp_path):
    code, _, err = fsl(
        "pretrain",
        *SETS,
        "--set",
        "pretrain.optimizer.lr=1000",
        "--set",
        "pretrain.epochs=1",
        "--set",
        "pretrain.precision='32'",
        "--set",
        "pretrain.optimizer.weight_decay=1",
        "--data-root",
        glyph_root,
        "--run-dir",
        tmp_path / "r",
    )
    assert code == 3 and "NaN or infinite" in err and "Traceback" not in err


def test_schedules():
    assert [rate(ScheduleSpec(every=2, gamma=0.5), e, 6) for e in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert [rate(ScheduleSpec(at=(2, 3), gamma=0.5), e, 6) for e in range(5)] == [1, 1, 0.5, 0.25, 0.25]
    assert rate(ScheduleSpec(name="constant"), 5, 6) == 1
    cosine = [rate(ScheduleSpec(name="cosine"), e, 4) for e in range(4)]
    assert cosine[0] == 1 and abs(cosine[2] - 0.5) < 1e-12 and cosine[3] < cosine[1]


IMAGE = ImageSpec(size=16, mean=(0, 0, 0), std=(1, 1, 1))


def pictures(n: int = 6, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, side, side), generator=rng, dtype=torch.uint8), torch.full((n, 2), float(side))


def test_augmentation_without_any_change_is_the_picture():
    images, sizes = pictures()
    out = augment(images, sizes, AugmentSpec(crop="none", flip=False), IMAGE, generator(0, 0))
    assert torch.allclose(out, images / 255, atol=1e-5)


def test_flips_and_padded_crops_agree_with_slicing():
    images, sizes = pictures(40)
    out = augment(images, sizes, AugmentSpec(crop="pad", flip=True), IMAGE, generator(1, 0))
    rng = generator(1, 0)
    boxes = crop_boxes(sizes, AugmentSpec(crop="pad"), IMAGE, rng)
    flips = torch.rand(40, generator=rng) < 0.5
    assert 5 < flips.sum() < 35
    padded = torch.nn.functional.pad(images / 255, (2, 2, 2, 2))
    for i in range(40):
        x, y = (int(v) for v in (boxes[i, :2] * 16).round() + 2)
        want = padded[i, :, y : y + 16, x : x + 16]
        assert torch.allclose(out[i], want.flip(-1) if flips[i] else want, atol=1e-4)


def test_random_resized_boxes_have_the_areas_and_ratios_asked_for():
    sizes = torch.tensor([[60.0, 100.0]]).expand(4000, 2)
    boxes = crop_boxes(sizes, AugmentSpec(scale=(0.2, 0.6)), ImageSpec(size=16), generator(2, 0))
    left, top, wide, high = boxes.unbind(1)
    area, ratio = wide * high, (wide * 100) / (high * 60)
    assert area.min() > 0.199 and area.max() < 0.601
    assert ratio.min() > 0.749 and ratio.max() < 1.334
    assert (left >= 0).all() and (top >= 0).all() and (left + wide <= 1.0001).all() and (top + high <= 1.0001).all()
    assert area.std() > 0.08


def test_jitter_agrees_with_pillow():
    from PIL import Image, ImageEnhance

    images, _ = pictures(1)
    factors = torch.tensor([1.2, 0.7, 1.3]).view(3, 1, 1, 1, 1)
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    for enhancer, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors.flatten(), strict=True
    ):
        picture = enhancer(picture).enhance(float(factor))
    got = (jitter(images / 255, factors)[0] * 255).permute(1, 2, 0)
    want = torch.tensor(list(picture.get_flattened_data())).view(16, 16, 3)
    assert (got - want).abs().max() < 3  # Pillow rounds to whole levels after each step


def test_the_recipe_of_a_checkpoint_is_in_its_sidecar(pretrained):
    sidecar = json.loads((pretrained / "weights.safetensors.json").read_text())
    assert sidecar["backbone"] == {"name": "conv64", "channels": 8, "third_pool": True, "last_pool": False}
    assert sidecar["dataset"]["name"] == "glyphs" and sidecar["licence"].startswith("MIT")
    assert fingerprint(sidecar["recipe"]["pretrain"])
