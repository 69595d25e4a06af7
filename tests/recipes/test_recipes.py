"""The recipes that come with the package."""

import re

import pytest

from fewshot_cli import registry
from fewshot_cli.config.load import find_recipe, load_recipe
from fewshot_cli.config.places import installed_recipes


@pytest.mark.parametrize("name", sorted(installed_recipes()))
def test_recipe_loads_opens_with_its_command_and_is_named_by_its_task(name):
    loaded = load_recipe(name)
    first = find_recipe(name).read_text().splitlines()[0]
    assert first.startswith(f"# fsl eval --recipe {name}")
    if loaded.eval.protocol == "classification":
        assert name.startswith(f"{loaded.dataset.name}_")
        return
    task = re.match(rf"{loaded.dataset.name}_(\d+)w(\d+)s", name)
    assert task and (int(task[1]), int(task[2])) == (loaded.episode.way, loaded.episode.shot)
    assert ("--check" in first) == bool(loaded.expect)


def test_every_dataset_has_one_and_five_shot_recipes_for_deepemd_and_prototypes():
    same = {"cifar10", "cifar10_1", "cifar100", "ilsvrc2012"}  # the same classes in train and test: no episodes
    for dataset in set(registry.entries("datasets")) - same:
        for shot in (1, 5):
            assert load_recipe(f"{dataset}_5w{shot}s").head.name == ("emd" if shot == 1 else "sfc")
            assert load_recipe(f"{dataset}_5w{shot}s_prototype").head.name == "prototype"
