"""Training: it learns, it stops on NaN, and a real kill changes no byte."""

import hashlib
import json
import signal
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from tiny import PRETRAINED

from fewshot_cli.config.schema import AugmentSpec, ImageSpec, ScheduleSpec
from fewshot_cli.runtime.files import _SEAL
from fewshot_cli.runtime.runs import fingerprint
from fewshot_cli.training import optimise
from fewshot_cli.training.augment import apply, crop_boxes, draw, jitter
from fewshot_cli.training.optimise import generator, rate
from fewshot_cli.weights import checkpoint

METATRAIN = ("--set", "metatrain.epochs=3", "--set", "metatrain.ema=0.5")


def augment(images, sizes, spec, image, rng, extractor=None):
    return apply(images, draw(sizes, spec, image, rng, extractor), spec, image)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Killed between the record of an epoch and its state, and after both; compared byte for byte with a whole run of
# another process, since what ran before in a process may change its rounding.
@pytest.mark.parametrize(("place", "epochs"), [("log.jsonl:2", 1), ("state.pt:2", 2)])
def test_pretraining_killed_and_resumed_ends_with_the_same_bytes(tiny, children, pretrained, tmp_path, place, epochs):
    words = ("pretrain", *tiny.words, *PRETRAINED, "--run-dir", "run")
    killed = children.run(*words, cwd=tmp_path, environment={"FSL_STOP_AT": place})
    assert killed.returncode == -signal.SIGKILL
    run = tmp_path / "run"
    assert (run / "log.jsonl").read_text().count("\n") == 2 and not (run / "summary.json").exists()
    done = children.run(*words, "--resume", cwd=tmp_path)
    assert done.returncode == 0 and f"resuming after epoch {epochs}\n" in done.stderr, done.stderr
    for name in ("weights.safetensors", "log.jsonl", "state.pt"):
        assert digest(run / name) == digest(pretrained / name), name


def interrupted(children, tiny, tmp_path, *more):
    """A pre-training that was killed after its second epoch, and the command that goes on with it."""
    words = ("pretrain", *tiny.words, *PRETRAINED, *more, "--run-dir", "run")
    assert children.run(*words, cwd=tmp_path, environment={"FSL_STOP_AT": "state.pt:2"}).returncode == -signal.SIGKILL
    return tmp_path / "run", (*words, "--resume")


def test_a_state_of_which_a_bit_has_changed_is_not_gone_on_with(tiny, children, fsl, tmp_path, monkeypatch):
    run, words = interrupted(children, tiny, tmp_path)
    whole = (run / "state.pt").read_bytes()
    monkeypatch.chdir(tmp_path)
    for place in (3, len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        (run / "state.pt").write_bytes(changed)
        code, out, err = fsl(*words)
        assert code == 3 and out == "" and "state.pt: is damaged" in err and "Traceback" not in err, place
    (run / "state.pt").write_bytes(whole[: len(whole) // 2])
    assert fsl(*words)[0] == 3
    (run / "state.pt").write_bytes(whole[len(whole) // 2 :] + whole[: len(whole) // 2])  # not even a seal
    code, _, err = fsl(*words)
    assert code == 3 and "state.pt: is damaged" in err, err
    (tmp_path / "other").mkdir()
    theirs, _ = interrupted(children, tiny, tmp_path / "other", "--seed", "7")
    (run / "state.pt").write_bytes((theirs / "state.pt").read_bytes())
    code, out, err = fsl(*words)
    assert code == 3 and out == "" and "it is another run's" in err
    (run / "state.pt").write_bytes(whole[len(_SEAL) + 32 :])  # as earlier versions wrote it
    code, _, err = fsl(*words)
    assert code == 0 and "resuming after epoch 2" in err


def test_a_log_of_which_a_character_has_changed_is_not_gone_on_with(tiny, children, fsl, tmp_path, monkeypatch):
    run, words = interrupted(children, tiny, tmp_path)
    monkeypatch.chdir(tmp_path)
    whole = (run / "log.jsonl").read_bytes()
    for old, new in ((b'"loss"', b'"lass"'), (b'"epoch":1', b'"epoch":3'), (b'"ci95":', b'"ci95":1')):
        assert old in whole
        (run / "log.jsonl").write_bytes(whole.replace(old, new, 1))
        code, out, err = fsl(*words)
        assert code == 3 and out == "" and "log.jsonl: is not what this run wrote up to epoch 2" in err, err
    (run / "log.jsonl").write_bytes(whole)
    assert fsl(*words)[0] == 0


@pytest.mark.parametrize("where", ["an unfinished run", "a finished run"])
def test_the_summary_of_another_run_is_not_printed_as_this_ones(
    tiny, children, pretrained, fsl, tmp_path, monkeypatch, where
):
    run, words = interrupted(children, tiny, tmp_path)
    monkeypatch.chdir(tmp_path)
    if where == "a finished run":
        assert fsl(*words)[0] == 0
        own = (run / "summary.json").read_bytes()
        assert fsl(*words)[0] == 0 and (run / "summary.json").read_bytes() == own
    foreign = json.loads((pretrained / "summary.json").read_text()) | {"epochs": 17}
    (run / "summary.json").write_text(json.dumps(foreign))
    code, out, err = fsl(*words)
    assert code == 3 and out == "" and "summary.json: is not what this run wrote; remove it" in err
    (run / "summary.json").unlink()
    code, out, _ = fsl(*words)
    assert code == 0 and json.loads(out)["epochs"] != 17


def test_a_run_says_which_package_each_part_is_from(pretrained):
    parts = json.loads((pretrained / "config.json").read_text())["parts"]
    assert set(parts) == {"dataset", "backbone", "extractor", "head", "solver"}
    assert parts["backbone"] == f"conv64 of fewshot-cli {version('fewshot-cli')}"


def test_pretraining_learns(pretrained):
    log = [json.loads(line) for line in (pretrained / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"] < 3


def test_metatraining_trains_on_through_the_transport_and_survives_a_kill(tiny, children, pretrained, tmp_path):
    words = ("metatrain", *tiny.words, *METATRAIN, "--weights", pretrained / "weights.safetensors", "--run-dir")
    children.run(*words, "whole", cwd=tmp_path, check=True)
    before, after = (checkpoint.load(run / "weights.safetensors") for run in (pretrained, tmp_path / "whole"))
    name = "backbone.blocks.0.0.weight"
    assert not torch.equal(before.tensors[name], after.tensors[name])
    assert after.sidecar["start"] == before.sha256 and after.sidecar["stage"] == "metatrain"
    killed = children.run(*words, "broken", cwd=tmp_path, environment={"FSL_STOP_AT": "log.jsonl:2"})
    assert killed.returncode == -signal.SIGKILL
    children.run(*words, "broken", "--resume", cwd=tmp_path, check=True)
    assert digest(tmp_path / "broken" / "weights.safetensors") == digest(tmp_path / "whole" / "weights.safetensors")


@pytest.mark.parametrize("verb", ["pretrain", "metatrain"])
def test_half_precision_trains_nearly_alike(fsl, tiny, pretrained, verb):
    losses = []
    weights = ("--weights", pretrained / "weights.safetensors") if verb == "metatrain" else ()
    for precision in ("32", "bf16"):
        words = (verb, *tiny.words, *weights, "--precision", precision, "--run-dir", precision)
        code, _, err = fsl(*words)
        assert code == 0, err
        losses.append(json.loads(Path(precision, "log.jsonl").read_text())["loss"])
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("has_it", [True, False])
def test_a_processor_that_emulates_bf16_says_so(fsl, tiny, monkeypatch, has_it):
    monkeypatch.setattr(optimise, "has_bf16", lambda device: has_it)
    code, _, err = fsl("pretrain", *tiny.words, "--precision", "bf16")
    assert code == 0 and ("emulating it is slow; --precision 32" in err) is not has_it


def test_a_changed_recipe_is_refused_on_resume(tiny, pretrained, fsl):
    other = (*PRETRAINED, "--set", "pretrain.optimizer.lr=0.05")
    code, _, err = fsl("pretrain", *tiny.words, *other, "--run-dir", pretrained, "--resume")
    assert code == 3 and "pretrain.optimizer.lr" in err


def test_loss_that_is_not_finite_stops_with_a_sentence(tiny, fsl):
    hot = ("--set", "pretrain.optimizer={lr: 1000, weight_decay: 1}", "--set", "pretrain.epochs=30")
    code, _, err = fsl("pretrain", *tiny.words, *hot)
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


def test_augmentation_without_any_change_is_the_image():
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
    assert sidecar["dataset"]["name"] == "images" and sidecar["licence"].startswith("MIT")
    assert fingerprint(sidecar["recipe"]["pretrain"])
