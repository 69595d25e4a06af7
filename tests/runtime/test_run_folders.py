"""The runs folder: what is a run, its state, the newest of a recipe, and what is removed."""

import os

import pytest

from fewshot_cli.errors import DataError
from fewshot_cli.runtime import run_folders
from fewshot_cli.runtime.files import hold
from fewshot_cli.runtime.runs import Run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(path, kind="eval", recipe="glyphs_5w1s", summary=None, age=0):
    """A run that is over, of this age in seconds."""
    run = Run(run_folders.Path(path), kind, {"name": recipe}, {"data": path}, False)
    if summary is not None:
        run.finish(summary)
    place = run.path
    del run
    for file in place.iterdir():
        os.utime(file, (1e9 - age, 1e9 - age))
    return place


def test_runs_are_found_newest_first_with_their_results(tmp_path):
    made("runs/eval/a", summary={"accuracy": 50.0, "ci95": 1.5}, age=10)
    made("runs/pretrain/b", "pretrain", "b", {"best": {"accuracy": 40.0, "ci95": 2.0}, "epochs": 3})
    made("runs/eval/a-2", age=20)
    (tmp_path / "runs" / "eval" / "other").mkdir()
    (tmp_path / "runs" / "eval" / "other" / "notes.json").write_text("{}")
    found = run_folders.find()
    assert [(str(r.path), r.kind, r.recipe, r.state, r.accuracy, r.ci95) for r in found] == [
        ("runs/pretrain/b", "pretrain", "b", "finished", 40.0, 2.0),
        ("runs/eval/a", "eval", "glyphs_5w1s", "finished", 50.0, 1.5),
        ("runs/eval/a-2", "eval", "glyphs_5w1s", "unfinished", None, None),
    ]
    assert found[1].size == sum(file.stat().st_size for file in found[1].path.iterdir())
    assert found[1].changed.timestamp() == 1e9 - 10


def test_the_phases_of_a_run_belong_to_it():
    made("runs/metatrain/m", "metatrain", "m")
    inner = made("runs/metatrain/m/first", "metatrain", "m", {"best": {"accuracy": 1.0, "ci95": 0.1}})
    (whole,) = run_folders.find()
    assert str(whole.path) == "runs/metatrain/m"
    assert whole.size > sum(file.stat().st_size for file in inner.iterdir())


def test_another_programs_configuration_is_no_run(tmp_path):
    (tmp_path / "runs" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "model" / "config.json").write_text('{"hidden_size": 8}')
    (tmp_path / "runs" / "config.json").write_text('{"verb": "x"}')
    made("runs/eval/a")
    assert [str(run.path) for run in run_folders.find()] == ["runs/eval/a"]
    with pytest.raises(DataError, match="model: is not the folder of a run"):
        run_folders.named("model")


def test_a_run_in_use_and_a_damaged_one_say_so(tmp_path):
    place = made("runs/eval/a", summary={"accuracy": 1.0, "ci95": 0.1})
    release = hold(place)
    (used,) = run_folders.find()
    assert used.state == "in use" and used.holder.startswith(f"process {os.getpid()} on ")
    with pytest.raises(DataError, match="is in use by process"):
        run_folders.refuse_removal(used)
    release()
    assert run_folders.find()[0].state == "finished"
    (place / "config.json").write_text("{")
    (damaged,) = run_folders.find()
    assert (damaged.state, damaged.kind, damaged.recipe) == ("damaged", "eval", "a")


def test_the_newest_run_of_a_recipe(tmp_path):
    made("runs/eval/a", summary={"accuracy": 1.0}, age=10)
    made("runs/eval/a-2", summary={"accuracy": 2.0}, age=5)
    made("runs/eval/a-3")
    made("runs/pretrain/a", "pretrain", summary={"epochs": 1}, age=1)
    assert str(run_folders.newest("glyphs_5w1s").path) == "runs/pretrain/a"
    assert str(run_folders.newest("some/where/glyphs_5w1s.yaml", "eval").path) == "runs/eval/a-2"
    assert str(run_folders.newest("glyphs_5w1s", "eval", unfinished=True).path) == "runs/eval/a-3"
    with pytest.raises(DataError, match="there is no metatrain run of recipe glyphs_5w1s"):
        run_folders.newest("glyphs_5w1s", "metatrain")
    made("runs/eval/u", recipe="u")
    with pytest.raises(DataError, match=r"u has no finished run, but runs/eval/u \(unfinished\); .* --unfinished"):
        run_folders.newest("u")


def test_a_run_is_removed_with_its_phases_and_nothing_else(tmp_path):
    place = made("runs/metatrain/m", "metatrain")
    made("runs/metatrain/m/first", "metatrain")
    (place / "weights.safetensors").write_bytes(b"w")
    (place / "tensorboard").mkdir()
    (place / "tensorboard" / "events.1").write_text("x")
    (place / ".summary.json.x.part").write_text("")
    beside = made("runs/metatrain/m-2", "metatrain")
    run_folders.remove(run_folders.named("metatrain/m"))
    assert [p.name for p in (tmp_path / "runs" / "metatrain").iterdir()] == ["m-2"] and beside.is_dir()


@pytest.mark.parametrize("stranger", ["notes.md", "photos/a.jpg", "first/notes.md"])
def test_a_folder_that_holds_more_than_a_run_is_not_removed(stranger):
    place = made("runs/metatrain/m", "metatrain")
    made("runs/metatrain/m/first", "metatrain")
    (place / stranger).parent.mkdir(exist_ok=True)
    (place / stranger).write_text("mine")
    with pytest.raises(DataError, match=rf"m: also holds what no run writes \({stranger.partition('/a')[0]}\)"):
        run_folders.remove(run_folders.named("runs/metatrain/m"))
    assert (place / stranger).read_text() == "mine" and (place / "config.json").exists()


def test_a_link_to_a_run_is_not_removed(tmp_path):
    place = made("runs/eval/a")
    (tmp_path / "link").symlink_to(place)
    with pytest.raises(DataError, match="link: is a link; give the folder that it leads to"):
        run_folders.refuse_removal(run_folders.named("link"))
