"""The weights of our second package: what it holds, and what is said where it is missing."""

import tomllib
from pathlib import Path

import pytest

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.config.places import installed_recipes
from fewshot_cli.errors import DataError
from fewshot_cli.weights import checkpoint, installed
from fewshot_cli.weights.find import find_weights

PROJECT = Path(__file__).parents[2] / "weights"
FOLDER = PROJECT / "fewshot_cli_weights"


def test_it_declares_what_it_holds():
    with (PROJECT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["entry-points"]["fewshot_cli.weights"]
    assert sorted(declared) == sorted(installed.BESIDE) == sorted(p.stem for p in FOLDER.glob("*.safetensors"))
    assert set(declared.values()) == {FOLDER.name}


@pytest.mark.parametrize("name", installed.BESIDE)
def test_its_weights_fit_the_recipes_that_name_them_and_say_what_made_them(name):
    path = FOLDER / f"{name}.safetensors"
    loaded = checkpoint.load(path)
    assert path.stat().st_size <= 26e6 and loaded.sidecar["precision"] == "float16"
    assert loaded.sidecar["seconds"] > 0 and loaded.sidecar["machines"] and loaded.sidecar["classes"]
    recipes = [recipe for recipe in map(load_recipe, installed_recipes()) if recipe.weights == name]
    assert {recipe.episode.shot for recipe in recipes} == {1, 5}
    for recipe in recipes:
        loaded.fill(build_backbone(recipe), "backbone", recipe.name)
        made, now = loaded.sidecar["recipe"], recipe.resolved()
        assert made["backbone"] == now["backbone"] and made["image"]["mean"] == now["image"]["mean"]
        assert made["image"]["size"] in (now["pretrain"]["size"], now["image"]["size"])
        for key in ("epochs", "batch", "rotation", "ema", "optimizer", "schedule", "grow"):
            assert made["pretrain"][key] == now["pretrain"][key], key
        if recipe.head.name in ("emd", "sfc"):
            assert [entry.weights for entry in recipe.expect] == [loaded.sha256[:16]]


def test_a_recipe_of_its_weights_says_how_to_install_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(installed, "names", lambda: ["glyphs_conv64"])
    with pytest.raises(
        DataError, match=r"cub_5w5s: its weights cub_resnet12 .* pip install \./weights\), or train your own"
    ):
        find_weights(load_recipe("cub_5w5s"), None)
