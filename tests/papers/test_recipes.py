"""Installed recipes are told by what they say, not by what they are called."""

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.papers import recipes
from fewshot_cli.papers.recipes import recipe_for
from fewshot_cli.papers.reproduce import names
from fewshot_cli.weights import checkpoint, installed

REPRODUCED = {
    "cifar_fs": ("cifar_fs_5w1s", "cifar_fs_5w5s"),
    "cifar_fs_conv64": ("cifar_fs_5w1s_conv64", "cifar_fs_5w5s_conv64"),
    "cifar_fs_paper": ("cifar_fs_5w1s_paper", "cifar_fs_5w5s_paper"),
    "cub": ("cub_5w1s", "cub_5w5s"),
    "cub_conv64": ("cub_5w1s_conv64", "cub_5w5s_conv64"),
    "cub_paper": ("cub_5w1s_paper", "cub_5w5s_paper"),
    "fc100": ("fc100_5w1s", "fc100_5w5s"),
    "fc100_conv64": ("fc100_5w1s_conv64", "fc100_5w5s_conv64"),
    "fc100_paper": ("fc100_5w1s_paper", "fc100_5w5s_paper"),
    "glyphs": ("glyphs_5w1s", "glyphs_5w5s"),
    "images": ("images_5w1s", "images_5w5s"),
    "mini_imagenet": ("mini_imagenet_5w1s", "mini_imagenet_5w5s"),
    "nabirds": ("nabirds_5w1s", "nabirds_5w5s"),
    "omniglot": ("omniglot_5w1s", "omniglot_5w5s"),
    "stanford_cars": ("stanford_cars_5w1s", "stanford_cars_5w5s"),
    "stanford_dogs": ("stanford_dogs_5w1s", "stanford_dogs_5w5s"),
    "tiered_imagenet": ("tiered_imagenet_5w1s", "tiered_imagenet_5w5s"),
}


def test_each_dataset_and_backbone_has_its_two_recipes():
    assert names() == list(REPRODUCED)
    assert {name: (pair.one_shot.name, pair.five_shot.name) for name, pair in recipes.pairs().items()} == REPRODUCED


def test_names_of_recipes_decide_nothing(tmp_path, monkeypatch):
    written = {
        "a": "base: glyphs_5w1s",
        "b": "base: glyphs_5w5s",
        "without_a_partner": "base: glyphs_5w1s\nweights: other",
        "of_other_training": "base: glyphs_5w5s\npretrain: {epochs: 7}",
        "of_another_head": "base: glyphs_5w1s\nhead: {name: emd, norm: cosine}",
        "of_patches_1": "base: glyphs_5w1s\nextractor: grid",
        "of_patches_5": "base: glyphs_5w5s\nextractor: grid",
        "large_1": "base: glyphs_5w1s\nbackbone: resnet12\nweights: large",
        "large_5": "base: glyphs_5w5s\nbackbone: resnet12\nweights: large",
    }
    for name, text in written.items():
        (tmp_path / f"{name}.yaml").write_text(text + "\n")
    monkeypatch.setattr(recipes, "installed_recipes", lambda: [str(tmp_path / f"{name}.yaml") for name in written])
    for cached in (recipes._installed, recipes.pairs):
        monkeypatch.setattr(recipes, cached.__name__, cached.__wrapped__)
    found = {name: (pair.one_shot.name, pair.five_shot.name) for name, pair in recipes.pairs().items()}
    assert found == {"glyphs": ("large_1", "large_5"), "glyphs_conv64": ("a", "b")}


def test_the_recipe_is_the_one_that_the_weights_are_for(tmp_path):
    large = "cifar_fs_resnet12" in installed.names()  # whether the package of larger weights is there
    assert recipe_for("cifar_fs", None) == ("cifar_fs_5w1s" if large else "cifar_fs_5w1s_conv64")
    assert recipe_for("fc100", installed.file("cifar_fs_conv64")) == "fc100_5w1s_conv64"
    large = load_recipe("fc100_5w1s")
    checkpoint.save(tmp_path / "large.safetensors", {"backbone": build_backbone(large)}, {})
    assert recipe_for("fc100", tmp_path / "large.safetensors") == "fc100_5w1s"
