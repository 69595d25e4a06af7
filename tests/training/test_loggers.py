"""Loggers by name: what each has written is read back, offline."""

import csv
import json
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fewshot_cli.errors import DataError
from fewshot_cli.training.loggers import check_loggers, open_loggers

RECIPE = {"name": "tiny", "backbone": {"name": "conv64", "options": {"channels": 8}}, "weights": None}
EPOCHS = [
    {"epoch": 1, "lr": 0.1, "loss": 2.5, "train_accuracy": 20.0},
    {
        "epoch": 2,
        "lr": 0.05,
        "loss": 1.5,
        "train_accuracy": 40.0,
        "validation": {"accuracy": 33.0, "ci95": 1.0},
        "iterations": {"mean": 12.5, "spread": 2.0},
        "not_converged": 3,
    },
]


@pytest.fixture
def run(tmp_path, monkeypatch) -> SimpleNamespace:
    """A run of which both epochs are logged."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.json").write_text(json.dumps({"recipe": RECIPE}))
    return SimpleNamespace(path=tmp_path, mark="0123456789ab", lines=lambda name: EPOCHS)


def log(run: SimpleNamespace, name: str, done: int = 0) -> None:
    """Log the epochs that are not done."""
    [logger] = open_loggers([name, name], run, done)  # named twice, it writes once
    for record in EPOCHS[done:]:
        logger.note(record)
    logger.close()


def test_a_csv_has_a_row_for_each_epoch_after_resuming_too(run):
    for done in (0, 1, 2):
        log(run, "csv", done)
        rows = list(csv.DictReader((run.path / "log.csv").open()))
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert [row["accuracy/validation"] for row in rows] == ["", "33.0"]
        assert (rows[1]["loss"], rows[1]["iterations"], rows[1]["not_converged"]) == ("1.5", "12.5", "3")


@pytest.mark.slow
def test_mlflow_keeps_a_run_in_a_folder_and_goes_on_with_it(run):
    from mlflow.tracking import MlflowClient

    log(run, "mlflow")
    log(run, "mlflow", done=1)
    client = MlflowClient(tracking_uri=(run.path / "mlruns").as_uri())
    [found] = client.search_runs([client.get_experiment_by_name("fsl").experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["backbone.options.channels"] == "8"
    assert "weights" not in found.data.params and found.data.metrics["accuracy/validation"] == 33.0
    history = client.get_metric_history(found.info.run_id, "loss")
    assert {(point.step, point.value) for point in history} == {(1, 2.5), (2, 1.5)}


def leveldb_records(blob: bytes) -> list[bytes]:
    """The records of a log of LevelDB's format, after the 7 bytes of its header; it has one block."""
    assert len(blob) < 32768
    found, at = [], 7
    while at + 7 <= len(blob):
        length, kind = struct.unpack_from("<HB", blob, at + 4)
        if at + 7 + length > len(blob):  # being written
            break
        assert kind == 1  # whole
        found.append(blob[at + 7 : at + 7 + length])
        at += 7 + length
    return found


def read_wandb(file, kind):
    """What is in a run's file so far: the rows of its history, and its configuration."""
    history, config = [], {}
    for data in leveldb_records(file.read_bytes()):
        record = kind()
        record.ParseFromString(data)
        if items := record.history.item:
            history.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in items})
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return history, config


@pytest.mark.slow
def test_wandb_writes_offline_what_can_be_synced(run, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    log(run, "wandb")
    [file] = Path(run.path, "wandb").glob("offline-run-*/run-*.wandb")
    assert file.name == f"run-{run.mark}.wandb"
    history, config = [], {}
    for _ in range(600):  # W&B's own process may write after the run was finished
        history, config = read_wandb(file, wandb_internal_pb2.Record)
        if len(history) == 2:
            break
        time.sleep(0.1)
    assert [(row["_step"], row["loss"]) for row in history] == [(1, 2.5), (2, 1.5)]
    assert config["backbone"] == RECIPE["backbone"]


@pytest.mark.slow
def test_wandb_without_a_login_is_one_sentence(run, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("api_key not configured (no-tty)\nmore")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(
        DataError, match=r"cannot begin \(api_key not configured \(no-tty\)\); log in with `wandb login`"
    ):
        open_loggers(["wandb"], run, 0)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_told_before_training(fsl, tiny, monkeypatch, name):
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(name, name), None)
    check_loggers(["csv"])
    code, out, err = fsl("pretrain", *tiny.words, "--log", name)
    assert code == 3 and out == "" and not Path("runs").exists()
    assert f"--log {name}: the package is not installed; pip install 'fewshot-cli[{name}]'" in err


def test_an_unknown_logger_is_refused_with_those_there_are(fsl, tiny):
    code, _, err = fsl("metatrain", *tiny.words, "--log", "paper")
    assert code == 2 and all(name in err for name in ("csv", "mlflow", "tensorboard", "wandb"))
