"""For which recipes weights are at hand is what `find_weights` would find."""

import pytest

from fewshot_cli.config.load import load_recipe
from fewshot_cli.errors import DataError
from fewshot_cli.weights import find, installed
from fewshot_cli.weights.at_hand import at_hand


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def finished(path):
    path.mkdir(parents=True)
    (path / "summary.json").write_text("{}")


def test_shipped_own_random_and_other_weights():
    assert at_hand(load_recipe("glyphs_5w1s")) == "shipped"
    assert at_hand(load_recipe("glyphs_5w1s", ["weights=none"])) == "random"
    assert at_hand(load_recipe("glyphs_5w1s", ["weights=hf:a/b"])) == "hub"
    assert at_hand(load_recipe("omniglot_5w1s")) is None


def test_a_backbones_own_weights_where_its_package_is_there(monkeypatch):
    recipe = load_recipe("images_5w1s_lite0")
    cls = type("Lite", (), {"lacking": staticmethod(lambda options: None)})
    monkeypatch.setattr("fewshot_cli.registry.backbone", lambda name: cls)
    assert at_hand(recipe) == "own"
    cls.lacking = staticmethod(lambda options: "pip install it")
    assert at_hand(recipe) is None


def test_runs_count_as_they_do_for_find_weights(tmp_path, monkeypatch):
    recipe = load_recipe("omniglot_5w1s")
    opened = []
    monkeypatch.setattr(find.checkpoint, "load", opened.append)
    with pytest.raises(DataError, match="no weights for recipe omniglot_5w1s"):
        find.find_weights(recipe, None)
    finished(tmp_path / "runs/pretrain/omniglot_conv64")
    assert at_hand(recipe) == "pretrain only: runs/pretrain/omniglot_conv64"
    finished(tmp_path / "runs/metatrain/omniglot_conv64-3")
    finished(tmp_path / "runs/metatrain/omniglot_conv64x")
    assert at_hand(recipe) == "runs/metatrain/omniglot_conv64-3"
    find.find_weights(recipe, None)
    assert [str(path) for path in opened] == ["runs/metatrain/omniglot_conv64-3/weights.safetensors"]


def test_shipped_pre_training_is_told_apart(monkeypatch):
    recipe = load_recipe("glyphs_5w1s", ["weights=cub_conv64"])
    names = [name for name in installed.names() if name != "cub_conv64"]
    monkeypatch.setattr(installed, "names", lambda: names)
    assert at_hand(recipe) == "pretrain only: shipped"
