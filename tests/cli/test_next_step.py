"""The command that follows: after a recipe was written and after data were prepared."""

from pathlib import Path

import pytest
from spoiled import images

from fewshot_cli.cli import next_step
from fewshot_cli.cli.next_step import SplitSize
from fewshot_cli.config.load import load_recipe

ROOMY = {split: SplitSize(5, 16) for split in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("recipe", "prepared", "command"),
    [
        ("glyphs_5w1s", False, "fsl eval --recipe glyphs_5w1s"),  # embedded
        ("cub_5w1s_conv64", False, "fsl prepare cub"),
        ("cub_5w1s_conv64", True, "fsl eval --recipe cub_5w1s_conv64"),
        ("cub_5w1s_frn", True, "fsl pretrain --recipe cub_5w1s_frn"),
        ("images_5w1s", False, "fsl prepare images --from FOLDER"),
    ],
)
def test_a_recipe_needs_data_then_weights(tmp_path, monkeypatch, recipe, prepared, command):
    monkeypatch.chdir(tmp_path)
    if prepared:
        (tmp_path / "cub").mkdir()
    assert next_step.for_recipe(recipe, load_recipe(recipe), tmp_path) == command


def test_a_store_of_another_name_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("images_5w1s", ["dataset.store=mine"])
    assert next_step.for_recipe("m.yaml", recipe, tmp_path, Path("x")) == "fsl prepare images --from x --name mine"
    notes, command = next_step.for_data("glyphs", "mine", ROOMY)
    assert notes == [] and command == "fsl eval --recipe glyphs_5w1s --set dataset.store=mine"


def test_weights_at_hand_come_before_short_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert next_step.for_data("omniglot", "omniglot", ROOMY)[1] == "fsl pretrain --recipe omniglot_5w1s"
    (tmp_path / "runs/metatrain/omniglot_conv64-2").mkdir(parents=True)
    (tmp_path / "runs/metatrain/omniglot_conv64-2/summary.json").write_text("{}")
    assert next_step.for_data("omniglot", "omniglot", ROOMY)[1] == "fsl eval --recipe omniglot_5w1s"
    assert next_step.for_data("cifar10_1", "cifar10_1", ROOMY) == ([], None)
    assert next_step.for_data("cifar10", "cifar10", {})[0] == []  # all its classes are in every split


def test_splits_that_are_too_small_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"train": SplitSize(6, 8), "val": SplitSize(1, 8), "test": SplitSize(3, 8)}
    notes, command = next_step.for_data("glyphs", "glyphs", small)
    assert notes == [
        "split val has 1 class, too few for validation while training: the episodes of glyphs_5w1s are 5-way",
        "split test has 3 classes, too few for evaluation: the episodes of glyphs_5w1s are 5-way",
        "the smallest class of split test has 8 images, too few for 1 support and 15 query images of glyphs_5w1s",
    ]
    assert command == "fsl eval --recipe glyphs_5w1s --set episode.way=3 --set episode.query=7"
    notes, command = next_step.for_data("glyphs", "glyphs", {"train": SplitSize(20, 60), "test": SplitSize(1, 1)})
    assert "split val has no classes" in notes[0] and command is None  # one class is no task


def test_prepare_ends_with_a_command_that_works(fsl, tmp_path):
    images(tmp_path / "photos", list("abcdefghij"))
    code, _, err = fsl("prepare", "images", "--from", "photos", "--dry-run")
    assert code == 0 and "note: split test has 2 classes, too few for evaluation" in err and "next" not in err
    code, _, err = fsl("prepare", "images", "--from", "photos")
    *notes, command = err.splitlines()
    assert code == 0 and sum(line.startswith("note: ") for line in notes) == 3
    assert command.startswith("next: fsl ") and command.endswith(" --set episode.way=2 --set episode.query=7")
    words = command.removeprefix("next: fsl ").split()
    assert fsl("eval", *words[1:], "--set", "weights=none", "--dry-run")[0] == 0
