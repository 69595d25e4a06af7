"""Several processes do what one does, and what goes wrong in one of them is said once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.errors import FslError
from fewshot_cli.runtime import processes
from fewshot_cli.weights import checkpoint

MIXED = (
    *("--set", "pretrain.mix={mixup: 0.5, cutmix: 1.0}"),
    *("--set", "pretrain.rotation=0.5"),
    *("--set", "pretrain.optimizer.lr=0.01"),
)


def learned(tensors: dict[str, torch.Tensor], prefix: str = "backbone.") -> torch.Tensor:
    """The backbone's weights in one vector, without the running statistics of batch norm."""
    names = sorted(name for name in tensors if name.startswith(prefix) and name.endswith(("weight", "bias")))
    return torch.cat([tensors[name].flatten() for name in names])


@pytest.mark.parametrize("stage", ["pretrain", "metatrain"])
def test_two_processes_train_as_one(tiny, children, pretrained, tmp_path, stage):
    """Sums over a batch are sums of two sums, which rounds otherwise; that stays far below what is learned."""
    if stage == "pretrain":
        more, start = MIXED, build_backbone(load_recipe(str(tiny.recipe))).state_dict()
    else:
        more = ("--weights", pretrained / "weights.safetensors")
        start = checkpoint.load(pretrained / "weights.safetensors").tensors
    words = (stage, *tiny.words, *more, "--run-dir")
    alone = children.run(*words, "one", cwd=tmp_path, check=True)
    first, second = children.together(2, *words, "two", cwd=tmp_path)
    assert first.returncode == second.returncode == 0, (first.stderr, second.stderr)
    assert second.stdout == second.stderr == "" and first.stderr.count("epoch 1/1") == 1
    assert json.loads(first.stdout)["epochs"] == json.loads(alone.stdout)["epochs"] == 1
    one, two = (learned(checkpoint.load(tmp_path / n / "weights.safetensors").tensors) for n in ("one", "two"))
    step = (one - learned(start, "" if stage == "pretrain" else "backbone.")).norm()
    assert step > 1e-3 and (one - two).norm() < 0.01 * step, ((one - two).norm(), step)


def evaluated_as_one(folder: Path, name: str) -> bool:
    """Whether a run of two processes has the records of the run `one`, each once and in one file."""
    one, two = ((folder / n / "episodes.jsonl").read_text() for n in ("one", name))
    return one == two and json.loads((folder / name / "summary.json").read_text())["processes"] == 2


def test_two_processes_evaluate_as_one(tiny, children, pretrained, tmp_path):
    words = ("eval", *tiny.words, "--weights", pretrained / "weights.safetensors", "--batch", 2, "--run-dir")
    alone = children.run(*words, "one", "--format", "json", cwd=tmp_path, check=True)
    assert json.loads(alone.stdout)["episodes"] == 7
    for done in children.together(2, *words, "two", cwd=tmp_path):
        assert done.returncode == 0, done.stderr
    assert evaluated_as_one(tmp_path, "two")


@pytest.mark.slow
def test_devices_start_as_many_processes(tiny, children, pretrained, tmp_path):
    words = ["eval", *tiny.words, "--weights", str(pretrained / "weights.safetensors"), "--batch", "2", "--run-dir"]
    children.run(*words, "one", cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "fewshot_cli", *words, "two", "--devices", "2"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert evaluated_as_one(tmp_path, "two")


def test_a_batch_that_cannot_be_shared_is_refused_once(tiny, children, tmp_path):
    words = ("pretrain", *tiny.words, "--set", "pretrain.batch=63", "--run-dir", "odd")
    first, second = children.together(2, *words, cwd=tmp_path)
    assert first.returncode == second.returncode == 2
    assert "pretrain.batch: 63 cannot be shared by 2 processes" in first.stderr and second.stderr == ""
    assert not (tmp_path / "odd").exists()


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


def test_an_allocation_of_several_tasks_does_not_disturb_one_process(tiny, children, tmp_path):
    allocated = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "1"}
    words = ("pretrain", *tiny.words, "--run-dir", "run")
    children.run(*words, cwd=tmp_path, environment=allocated, check=True)


def test_a_process_that_dies_ends_the_run_with_a_sentence(children, tmp_path):
    first, second = children.together(2, entry="probes:die", cwd=tmp_path)
    assert second.returncode == -9 and first.returncode == 3
    assert "another process of this run failed or was killed" in first.stderr
    assert "internal fault" not in first.stderr and "Traceback" not in first.stderr


def test_what_one_process_cannot_do_all_say(children, tmp_path):
    """The second process's fault reaches the first, which alone tells it."""
    for rank, done in enumerate(children.together(2, entry="probes:disagree", cwd=tmp_path)):
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{rank} not on this machine asked once [0, 1]\n"
