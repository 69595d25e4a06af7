"""What the engine adds to the loop: several processes, options of the recipe, large splits, and what it writes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewshot_cli.backbones.conv64 import Conv64, Conv64Options
from fewshot_cli.backbones.resnet12 import DropBlock, ResNet12, ResNet12Options
from fewshot_cli.config.schema import AugmentSpec, ImageSpec, MixSpec, PretrainSpec
from fewshot_cli.data import pixels
from fewshot_cli.errors import FslError
from fewshot_cli.heads.classifiers.linear import Linear
from fewshot_cli.runtime import processes
from fewshot_cli.training import validation
from fewshot_cli.training.augment import Mixing, apply, draw, draw_mixing, mix, neighbours
from fewshot_cli.training.average import Average
from fewshot_cli.training.optimise import generator
from fewshot_cli.training.pretrain import ClassObjective
from fewshot_cli.weights import checkpoint

TINY = [
    "backbone.channels=8",
    "pretrain.epochs=1",
    "pretrain.batch=2400",
    "pretrain.validation.episodes=4",
    "pretrain.precision='32'",
    "metatrain.epochs=1",
    "metatrain.steps=2",
    "metatrain.episodes_per_step=2",
    "metatrain.query=3",
    "metatrain.validation.episodes=4",
    "metatrain.precision='32'",
]
SETS = [word for text in TINY for word in ("--set", text)]


def alone(verb: str, root: Path, *more: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "fewshot_cli", verb, "--data-root", str(root), *map(str, more)],
        capture_output=True,
        text=True,
    )


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return {k: v for k, v in checkpoint.load(run / "weights.safetensors").tensors.items() if v.is_floating_point()}


def learned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in tensors.items() if "running" not in k}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> bool:
    return all(torch.allclose(a[k], b[k], atol=tolerance) for k in a)


def test_two_processes_train_and_evaluate_as_one(glyph_root, tmp_path):
    """Three steps of pre-training and two of meta-training: the weights agree as far as single precision goes
    (PyTorch's own batch norm on the CPU is off by 6e-4 in the variance of ten million values); the episodes of an
    evaluation are those of one process, each once, in one run directory.
    """
    mixed = ("--set", "pretrain.mix={mixup: 0.5, cutmix: 1.0}", "--set", "pretrain.rotation=0.5")
    runs = {}
    slow = ("--set", "pretrain.optimizer.lr=0.01")
    for name, more in (("one", ()), ("two", ("--devices", 2))):
        done = alone("pretrain", glyph_root, *SETS, *mixed, *slow, "--run-dir", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"best"') == 1 and done.stderr.count("epoch 1/1") == 1
        runs[name] = weights_of(tmp_path / name)
    assert same(learned(runs["one"]), learned(runs["two"]), 5e-5) and same(runs["one"], runs["two"], 1e-2)
    started = checkpoint.load(tmp_path / "one" / "weights.safetensors")
    for name, more in (("meta-one", ()), ("meta-two", ("--devices", 2))):
        done = alone(
            "metatrain",
            glyph_root,
            *SETS,
            "--set",
            "metatrain.optimizer.lr=0.01",
            "--run-dir",
            tmp_path / name,
            "--weights",
            started.path,
            *more,
        )
        assert done.returncode == 0, done.stderr
        runs[name] = weights_of(tmp_path / name)
    before = learned({k: v for k, v in started.tensors.items() if k in runs["meta-one"]})
    assert same(runs["meta-one"], runs["meta-two"], 1e-5) and not same(before, runs["meta-one"], 1e-4)
    for name, more in (("eval-one", ()), ("eval-two", ("--devices", 2))):
        done = alone("eval", glyph_root, "--set", "eval.episodes=7", "--batch", 2, "--run-dir", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "episodes.jsonl").read_text() for name in ("eval-one", "eval-two"))
    assert one == two and one.count("\n") == 7
    assert json.loads((tmp_path / "eval-two" / "summary.json").read_text())["processes"] == 2
    refused = alone(
        "pretrain", glyph_root, *SETS, "--set", "pretrain.batch=2401", "--run-dir", tmp_path / "odd", "--devices", 2
    )
    assert refused.returncode == 2 and "pretrain.batch: 2401 cannot be shared by 2 processes" in refused.stderr
    assert refused.stderr.count("cannot be shared") == 1 and not (tmp_path / "odd").exists()


IMAGE = ImageSpec(size=12, mean=(0, 0, 0), std=(1, 1, 1))


def test_a_part_of_a_batch_is_augmented_as_in_the_whole():
    images, sizes = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8), torch.full((8, 2), 16.0)
    spec = AugmentSpec(jitter=0.4)
    draws = draw(sizes, spec, IMAGE, generator(0, 0))
    whole = apply(images, draws, spec, IMAGE)
    assert torch.allclose(apply(images[2:6], draws.part(slice(2, 6)), spec, IMAGE), whole[2:6], atol=1e-6)


@pytest.mark.parametrize("spec", [MixSpec(mixup=0.4), MixSpec(cutmix=1.0), MixSpec(mixup=0.2, cutmix=1.0, share=0.7)])
def test_mixing_agrees_with_a_loop_over_pictures(spec):
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


def test_the_loss_of_mixed_pictures_is_that_of_both_labels():
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
            want += 0.7 * F.cross_entropy(made.turned(maps.mean((2, 3))), torch.tensor([turn])) / 12
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


def test_training_stops_when_validation_no_longer_improves(fsl, glyph_root):
    code, out, err = fsl(
        "pretrain",
        *SETS,
        "--set",
        "pretrain.epochs=30",
        "--set",
        "pretrain.optimizer.lr=1e-9",
        "--set",
        "pretrain.validation.patience=2",
        "--set",
        "pretrain.validation.every=1",
        "--data-root",
        glyph_root,
        "--run-dir",
        "run",
    )
    assert code == 0, err
    made = json.loads(out)
    assert made["best"]["epoch"] == made["epochs"] - 2 < 28
    assert f"stopped after {made['epochs']} epochs: no better validation in the last 2" in err


def test_a_split_larger_than_the_memory_trains_to_the_same_bytes(fsl, glyph_root, monkeypatch):
    digests = set()
    for name, room in (("large", 1 << 40), ("small", 1000)):
        monkeypatch.setattr(validation, "room", lambda _, room=room: room)
        code, out, err = fsl("pretrain", *SETS, "--data-root", glyph_root, "--run-dir", name)
        assert code == 0 and ("do not fit; they are kept in a file" in err) == (name == "small"), err
        digests.add(json.loads(out)["sha256"])
    assert len(digests) == 1


def test_batches_made_ahead_keep_their_order_and_their_faults():
    assert list(pixels._ahead(range(20))) == list(range(20))

    def broken():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(pixels._ahead(broken()))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_trains_alike(fsl, glyph_root, tmp_path, monkeypatch):
    """In a process of its own, where nothing has imported Fabric before."""
    losses, more = [], (*SETS, "--set", "pretrain.ema=0.9")
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        done = alone(
            "pretrain", glyph_root, *more, "--set", f"pretrain.compile={compiled}", "--run-dir", tmp_path / name
        )
        assert done.returncode == 0, done.stderr
        losses.append(json.loads((tmp_path / name / "log.jsonl").read_text())["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert same(learned(weights_of(tmp_path / "plain")), learned(weights_of(tmp_path / "compiled")), 1e-3)
    seen = []
    monkeypatch.setattr(torch, "compile", lambda module: seen.append(type(module).__name__) or module)
    assert (
        fsl("pretrain", *more, "--set", "pretrain.compile=true", "--data-root", glyph_root, "--run-dir", "again")[0]
        == 0
    )
    assert seen == ["ClassObjective"]


def test_a_run_leaves_a_picture_times_and_tensorboards_files(fsl, glyph_root):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, err = fsl(
        "pretrain", *SETS, "--set", "pretrain.epochs=2", "--tensorboard", "--data-root", glyph_root, "--run-dir", "run"
    )
    assert code == 0, err
    log, times = (
        [json.loads(line) for line in Path("run", name).read_text().splitlines()]
        for name in ("log.jsonl", "times.jsonl")
    )
    assert Path("run/training.png").stat().st_size > 5000 and [t["epoch"] for t in times] == [1, 2]
    assert all(0 < t["training"] <= t["seconds"] for t in times)
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([r["loss"] for r in log])


@pytest.mark.parametrize(
    ("verb", "wrong", "sentence"),
    [
        ("pretrain", "pretrain.validation.shot=500", "an episode needs"),
        ("metatrain", "metatrain.way=900", "900-way episodes need 900"),
        ("metatrain", "backbone.channels=32", "backbone conv64 needs"),
        ("pretrain", "pretrain.batch=60000", "a batch needs 60000"),
    ],
)
def test_a_start_that_cannot_work_is_told_by_a_dry_run_and_leaves_nothing(fsl, glyph_root, verb, wrong, sentence):
    weights = ("--weights", checkpoint.shipped()["glyphs_conv64"]) if verb == "metatrain" else ()
    for more in (("--dry-run",), ()):
        code, _, err = fsl(verb, "--set", wrong, "--data-root", glyph_root, *weights, *more)
        assert code == 3 and sentence in err and not Path("runs").exists()
    assert fsl(verb, "--data-root", glyph_root, *weights, "--dry-run")[0] == 0


def test_training_crops_are_cut_from_the_side_asked_for(fsl, glyph_root, monkeypatch):
    seen, plain = [], pixels.Pixels.__init__

    def watch(self, split, recipe, side, *more):
        seen.append((split.split, side))
        plain(self, split, recipe, side, *more)

    monkeypatch.setattr(pixels.Pixels, "__init__", watch)
    code, _, err = fsl(
        "pretrain", *SETS, "--set", "pretrain.augment.side=40", "--data-root", glyph_root, "--run-dir", "run"
    )
    assert code == 0 and seen == [("train", 40), ("val", 32)], err


def test_precision_on_the_command_line_is_the_recipes(fsl, glyph_root):
    code, out, _ = fsl("metatrain", "--recipe", "glyphs_5w1s", "--precision", "32", "--print-config")
    assert code == 0 and "precision: '32'" in out.partition("metatrain:")[2]
    code, _, err = fsl("pretrain", "--precision", "16")
    assert code == 2 and "pretrain.precision" in err


@pytest.mark.parametrize(
    ("environment", "asked", "found"),
    [
        ({}, (None, None), None),
        ({}, (2, None), (2, 1)),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, (None, None), None),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}, (None, None), (2, 2)),
        ({"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}, (None, None), (2, 3)),
        (
            {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"},
            (4, None),
            "the launcher started 2 processes",
        ),
        ({}, (1, 2), "set MASTER_ADDR"),
        ({"MASTER_ADDR": "a"}, (1, 2), (1, 2)),
    ],
)
def test_torchrun_and_srun_say_how_many_processes_there_are_and_sbatch_does_not(monkeypatch, environment, asked, found):
    class Stop(Exception):
        pass

    def fabric(device, devices, nodes):
        raise Stop((devices, nodes))

    for name in ("MASTER_ADDR", "TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_fabric", fabric)
    if found is None:
        assert processes.launch(torch.device("cpu"), *asked).size == 1
    elif isinstance(found, str):
        with pytest.raises(FslError, match=found):
            processes.launch(torch.device("cpu"), *asked)
    else:
        with pytest.raises(Stop) as stop:
            processes.launch(torch.device("cpu"), *asked)
        assert stop.value.args[0] == found


def test_an_allocation_of_several_tasks_does_not_disturb_one_process(glyph_root, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    done = alone("pretrain", glyph_root, *SETS, "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr


def test_a_process_that_dies_ends_the_run_with_a_sentence(tmp_path):
    (tmp_path / "probe.py").write_text(
        "import os, signal, sys, torch\n"
        "from fewshot_cli.cli import app\n"
        "from fewshot_cli.runtime.processes import launch\n"
        "def work(**_):\n"
        "    world = launch(torch.device('cpu'), 2, None)\n"
        "    if world.rank:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    world.gather(1)\n"
        "app.app = work\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "probe.py"], capture_output=True, text=True, timeout=100)
    assert done.returncode != 0 and "internal fault" not in done.stderr
    assert "another process of this run failed or was killed" in done.stderr or "Child process with PID" in done.stderr


def test_reproduce_goes_on_where_it_was_and_reports(fsl, glyph_root, tmp_path):
    sets = [*SETS, "--set", "eval.episodes=4", "--data-root", glyph_root, "--run-dir", "all"]
    code, _, err = fsl(
        "reproduce",
        "glyphs",
        *sets,
        "--set",
        "metatrain.optimizer.lr=1000",
        "--set",
        "metatrain.optimizer.weight_decay=1",
    )
    assert code == 3 and "NaN or infinite" in err  # it has pre-trained so far
    shutil.rmtree("all/metatrain")
    code, out, err = fsl("reproduce", "glyphs", *sets, "--format", "json")
    assert code == 0 and "all/pretrain" not in err and "== all/metatrain" in err, err
    report = json.loads(out)
    assert [(r["method"], r["shot"]) for r in report["rows"]] == [
        (m, s) for m in ("DeepEMD", "ProtoNet, Euclidean", "MatchingNet, cosine") for s in (1, 5)
    ]
    page = Path("all/report.md").read_text()
    for row in report["rows"]:
        summary = json.loads(Path(row["run_dir"], "summary.json").read_text())
        assert row["accuracy"] == pytest.approx(summary["accuracy"]) and f"{row['accuracy']:.2f}" in page
    assert report["hashes"]["weights"] == checkpoint.load(Path("all/metatrain/weights.safetensors")).sha256
    assert json.loads(Path("all/report.json").read_text()) == report and "![curves](pretrain/training.png)" in page
    code, _, err = fsl("reproduce", "glyphs", *sets)
    assert code == 0 and "==" not in err  # all is done
    code, _, err = fsl("reproduce", "glyphs", *sets, "--set", "eval.episodes=5")
    assert code == 3 and "all/eval/emd_1: was started with another configuration (recipe.eval.episodes)" in err
    code, _, err = fsl("reproduce", "glyphs", *sets, "--set", "backbone.channels=4")
    assert code == 3 and "all/pretrain: was started with another configuration" in err
    assert report["command"].startswith("fsl reproduce glyphs --set") and "'pretrain.precision='" in report["command"]
    code, _, err = fsl("reproduce", "glyfs")
    assert code == 2 and "did you mean 'glyphs'" in err


def test_what_one_process_cannot_do_all_say(tmp_path):
    """Weights that only the first process can read; the second one's fault reaches the first, which tells it."""
    (tmp_path / "probe.py").write_text(
        "import torch\n"
        "from fewshot_cli.runtime.processes import launch\n"
        "from fewshot_cli.errors import DataError\n"
        "world = launch(torch.device('cpu'), 2, None)\n"
        "def work():\n"
        "    if world.rank:\n"
        "        raise DataError('not on this machine')\n"
        "try:\n"
        "    world.each(work)\n"
        "except DataError as fault:\n"
        "    said = f\"{world.rank} {fault} {world.first(lambda: 'asked once')} {world.gather(world.rank)}\"\n"
        "    open(f'said{world.rank}', 'w').write(said)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "probe.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert (tmp_path / f"said{rank}").read_text() == f"{rank} not on this machine asked once [0, 1]"
