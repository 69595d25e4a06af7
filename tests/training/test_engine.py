"""What the engine adds to the loop: options of the recipe, large splits, and what it writes."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot_cli.backbones.conv64 import Conv64, Conv64Options
from fewshot_cli.backbones.resnet12 import DropBlock, ResNet12, ResNet12Options
from fewshot_cli.config.schema import AugmentSpec, ImageSpec, MixSpec, PretrainSpec
from fewshot_cli.data import pixels
from fewshot_cli.heads.classifiers.linear import Linear
from fewshot_cli.training import optimise
from fewshot_cli.training.augment import Mixing, apply, draw, draw_mixing, mix, neighbours
from fewshot_cli.training.average import Average
from fewshot_cli.training.optimise import generator
from fewshot_cli.training.pretrain import ClassObjective
from fewshot_cli.weights import checkpoint

IMAGE = ImageSpec(size=12, mean=(0, 0, 0), std=(1, 1, 1))


def test_a_part_of_a_batch_is_augmented_as_in_the_whole():
    images, sizes = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8), torch.full((8, 2), 16.0)
    spec = AugmentSpec(jitter=0.4)
    draws = draw(sizes, spec, IMAGE, generator(0, 0))
    whole = apply(images, draws, spec, IMAGE)
    assert torch.allclose(apply(images[2:6], draws.part(slice(2, 6)), spec, IMAGE), whole[2:6], atol=1e-6)


@pytest.mark.parametrize("spec", [MixSpec(mixup=0.4), MixSpec(cutmix=1.0), MixSpec(mixup=0.2, cutmix=1.0, share=0.7)])
def test_mixing_agrees_with_a_loop_over_images(spec):
    x = torch.rand(41, 3, 12, 12)
    mixing = draw_mixing(41, spec, 12, generator(3, 0))
    got, partner = mix(x, mixing), [i ^ 1 if (i ^ 1) < 41 else i for i in range(41)]
    assert neighbours(41).tolist() == partner
    pasted = 0
    for i in range(41):
        left, top, right, bottom = (int(v) for v in mixing.box[i])
        keep = float(mixing.keep[i])
        want = x[i].clone()
        if (right - left) * (bottom - top):
            want[:, top:bottom, left:right] = x[partner[i], :, top:bottom, left:right]
            assert keep == pytest.approx(1 - (right - left) * (bottom - top) / 144)
            pasted += 1
        else:
            want = keep * x[i] + (1 - keep) * x[partner[i]]
        assert torch.allclose(got[i], want, atol=1e-6)
    assert (pasted > 5) == bool(spec.cutmix) and 0.02 < (mixing.keep < 0.99).float().mean() <= 1
    if spec.share < 1:
        assert 0.1 < (mixing.keep == 1).float().mean() < 0.5
    assert draw_mixing(4, MixSpec(), 12, generator(0, 0)) is None
    whole, part = mix(x[:8], Mixing(mixing.keep[:8], mixing.box[:8])), mix(x[2:6], mixing.part(slice(2, 6)))
    assert torch.equal(whole[2:6], part)


def objective(**options):
    torch.manual_seed(0)
    backbone = Conv64(Conv64Options(channels=6, last_pool=False))
    return ClassObjective(backbone, Linear(channels=6, classes=5), PretrainSpec(**options)).eval()


def test_the_loss_of_mixed_images_is_that_of_both_labels():
    made, x, labels = objective(label_smoothing=0.1), torch.rand(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])
    mixing = draw_mixing(6, MixSpec(cutmix=1.0), 16, generator(1, 0))
    loss, _ = made((x, labels, mixing))
    logits = made.classifier(made.backbone(mix(x, mixing)))
    want = 0
    for i in range(6):
        for label, part in ((labels[i], mixing.keep[i]), (labels[i ^ 1], 1 - mixing.keep[i])):
            want += part * F.cross_entropy(logits[i : i + 1], label[None], label_smoothing=0.1) / 6
    assert torch.allclose(loss, want, atol=1e-6)


def test_rotations_are_told_apart_and_trained_on():
    made, x, labels = objective(rotation=0.7), torch.rand(3, 3, 16, 16), torch.tensor([0, 1, 2])
    loss, _ = made((x, labels, None))
    want = 0
    for i in range(3):
        for turn in range(4):
            maps = made.backbone(torch.rot90(x[i : i + 1], turn, (2, 3)))
            want += F.cross_entropy(made.classifier(maps), labels[i : i + 1]) / 12
            want += 0.7 * F.cross_entropy(made.rotation_head(maps.mean((2, 3))), torch.tensor([turn])) / 12
    assert torch.allclose(loss, want, atol=1e-5)


def test_averaged_weights_are_those_of_a_loop_and_only_lent():
    layer = nn.BatchNorm1d(3)
    average, want = Average({"layer": layer}, 0.9), layer.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            layer.weight += torch.rand(3)
            layer.num_batches_tracked += 1
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        want = decay * want + (1 - decay) * layer.weight.detach()
    own = layer.weight.detach().clone()
    with average.applied():
        assert torch.allclose(layer.weight, want, atol=1e-5) and int(layer.num_batches_tracked) == 39
    assert torch.equal(layer.weight, own)


def test_dropblock_drops_squares_of_the_share_asked_for():
    torch.manual_seed(0)
    block = DropBlock(0.2, 3)
    out = block(torch.ones(64, 16, 10, 10))
    gone = out == 0
    assert 0.14 < gone.float().mean() < 0.2  # squares overlap
    assert out.mean() == pytest.approx(1, abs=1e-5)
    inside = (
        F.unfold(gone.flatten(0, 1)[:, None].float(), 3).sum(1) == 9
    )  # every dropped value lies in a dropped square
    covered = F.fold(inside[:, None].float().expand(-1, 9, -1), (10, 10), 3)[:, 0] > 0
    assert torch.equal(covered, gone.flatten(0, 1))
    assert (block(torch.ones(8, 4, 2, 2)) == 0).any()  # smaller than a square
    assert torch.equal(block.eval()(out), out) and block(out) is out
    plain, dropped = (
        ResNet12(ResNet12Options(widths=(4, 4, 4, 4))),
        ResNet12(ResNet12Options(widths=(4, 4, 4, 4), drop=0.5)),
    )
    dropped.load_state_dict(plain.state_dict())  # the same weights either way
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain.eval()(x), dropped.eval()(x)) and not torch.equal(dropped.train()(x), plain.train()(x))


def test_training_stops_when_validation_no_longer_improves(fsl, tiny):
    still = ("--set", "pretrain.epochs=30", "--set", "pretrain.optimizer.lr=1e-9")
    code, out, err = fsl("pretrain", *tiny.words, *still, "--set", "pretrain.validation.patience=2")
    assert code == 0, err
    made = json.loads(out)
    assert made["best"]["epoch"] == made["epochs"] - 2 < 28
    assert f"stopped after {made['epochs']} epochs: no better validation in the last 2" in err


def test_a_split_larger_than_the_memory_trains_to_the_same_bytes(fsl, tiny, monkeypatch):
    digests = set()
    for name, free in (("large", 1 << 40), ("small", 2000)):
        monkeypatch.setattr(pixels, "free_memory", lambda _, free=free: free)
        code, out, err = fsl("pretrain", *tiny.words, "--run-dir", name)
        assert code == 0 and ("do not fit; they are kept in a file" in err) == (name == "small"), err
        digests.add(json.loads(out)["sha256"])
    assert len(digests) == 1


def test_batches_made_ahead_keep_their_order_and_their_faults():
    assert list(pixels._ahead(range(20), torch.device("cpu"))) == list(range(20))

    def broken():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(pixels._ahead(broken(), torch.device("cpu")))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_trains_alike(tiny, tmp_path):
    """In a process of its own, where nothing has imported Fabric before."""
    losses, weights = [], []
    for compiled in ("false", "true"):
        words = ["pretrain", *tiny.words, "--set", f"pretrain.compile={compiled}", "--run-dir", compiled]
        subprocess.run([sys.executable, "-m", "fewshot_cli", *words], cwd=tmp_path, check=True, capture_output=True)
        losses.append(json.loads((tmp_path / compiled / "log.jsonl").read_text())["loss"])
        weights.append(checkpoint.load(tmp_path / compiled / "weights.safetensors").tensors)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    for name, plain in weights[0].items():
        assert torch.allclose(plain, weights[1][name], atol=1e-3), name


def test_the_whole_step_of_pretraining_is_compiled(fsl, tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(type(module).__name__) or module)
    code, _, err = fsl("pretrain", *tiny.words, "--set", "pretrain.compile=true", "--set", "pretrain.ema=0.9")
    assert code == 0 and compiled == ["ClassObjective"], err


def test_a_run_leaves_curves_times_and_tensorboards_files(fsl, tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("pretrain", *tiny.words, "--set", "pretrain.epochs=2", "--tensorboard", "--log", "csv", "--run-dir", "run")
    code, _, err = fsl(*words)
    assert code == 0 and err.count("--tensorboard is now --log tensorboard") == 1, err
    log, times = (
        [json.loads(line) for line in Path("run", name).read_text().splitlines()]
        for name in ("log.jsonl", "times.jsonl")
    )
    assert Path("run/training.png").stat().st_size > 5000 and [t["epoch"] for t in times] == [1, 2]
    assert all(0 < t["training"] <= t["seconds"] for t in times)
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([r["loss"] for r in log])
    rows = list(csv.DictReader(Path("run/log.csv").open()))
    assert [(int(row["epoch"]), float(row["loss"])) for row in rows] == [(r["epoch"], r["loss"]) for r in log]


@pytest.mark.parametrize(
    ("verb", "wrong", "sentence"),
    [
        ("pretrain", "pretrain.validation.shot=500", "an episode needs"),
        ("metatrain", "metatrain.way=900", "900-way episodes need 900"),
        ("metatrain", "backbone.channels=32", "backbone conv64 needs"),
        ("pretrain", "pretrain.batch=60000", "a batch needs 60000"),
    ],
)
def test_a_start_that_cannot_work_is_told_by_a_dry_run_and_leaves_nothing(fsl, tiny, pretrained, verb, wrong, sentence):
    weights = ("--weights", pretrained / "weights.safetensors") if verb == "metatrain" else ()
    for more in (("--dry-run",), ()):
        code, _, err = fsl(verb, *tiny.words, "--set", wrong, *weights, *more)
        assert code == 3 and sentence in err and not Path("runs").exists()
    assert fsl(verb, *tiny.words, *weights, "--dry-run")[0] == 0


def test_training_crops_are_cut_from_the_side_asked_for(fsl, tiny, monkeypatch):
    seen, plain = [], pixels.Pixels.__init__

    def watch(self, split, recipe, side, *more):
        seen.append((split.split, side))
        plain(self, split, recipe, side, *more)

    monkeypatch.setattr(pixels.Pixels, "__init__", watch)
    code, _, err = fsl("pretrain", *tiny.words, "--set", "pretrain.augment.side=20")
    assert code == 0 and seen == [("train", 20), ("val", 16)], err


def test_precision_on_the_command_line_is_the_recipes(fsl):
    code, out, _ = fsl("metatrain", "--recipe", "glyphs_5w1s", "--precision", "32", "--print-config")
    assert code == 0 and "precision: '32'" in out.partition("metatrain:")[2]
    code, _, err = fsl("pretrain", "--precision", "16")
    assert code == 2 and "pretrain.precision" in err


@pytest.mark.parametrize(
    ("device", "epoch", "best", "seconds", "due"),
    [
        ("cpu", 4, 2, 0, True),
        ("cuda", 4, 2, 0, False),
        ("cuda", 4, 2, optimise.KEEP, True),
        ("cuda", 4, 4, 0, True),  # the weights of this epoch are those that are kept
        ("cuda", 9, 2, 0, True),  # the last
    ],
)
def test_what_resuming_needs_is_written_after_every_epoch_or_on_a_gpu_now_and_then(
    monkeypatch, device, epoch, best, seconds, due
):
    monkeypatch.setattr(optimise, "perf_counter", lambda: 100.0 + seconds)
    processes, spec = SimpleNamespace(device=torch.device(device)), SimpleNamespace(epochs=9)
    training = optimise._Training(None, spec, None, processes, None, None, None, kept=100.0)
    training.done.best = {"epoch": best}
    assert training.due(epoch) is due
