"""The keys that completion offers are those that the schema and the parts really have."""

import typing

import pytest
from pydantic import BaseModel

from fewshot_cli import registry
from fewshot_cli.config import outline
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.places import PARTS, chosen_parts, installed_recipes
from fewshot_cli.config.schema import PartSpec, Recipe

EVERY = [(kind, name) for kind in registry.KINDS for name in registry.entries(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY, ids="/".join)
def test_the_options_of_every_part_are_read_from_its_source(kind, name):
    model = registry.part(kind, name).Options
    keys = outline.option_keys(kind, name)
    assert list(keys) == list(model.model_fields)
    for key, field in model.model_json_schema().get("properties", {}).items():
        if "enum" in field:
            assert list(keys[key].choices) == [str(value) for value in field["enum"]], key
        elif field.get("type") == "boolean":
            assert keys[key].choices == ("true", "false")


def test_the_keys_of_a_recipe_are_read_from_the_schema():
    def compare(keys, model):
        assert list(keys) == list(model.model_fields)
        for key, field in model.model_fields.items():
            members = [field.annotation, *typing.get_args(field.annotation)]
            inner = next((m for m in members if isinstance(m, type) and issubclass(m, BaseModel)), None)
            assert keys[key].part == (inner is PartSpec), key
            if inner is PartSpec:
                assert keys[key].default == getattr(field.default, "name", None), key
            elif inner is not None and typing.get_origin(field.annotation) is not tuple:
                compare(keys[key].inside, inner)

    compare(outline.recipe_keys(), Recipe)
    assert outline.recipe_keys()["eval"].inside["split"].choices == ("train", "val", "test")


def test_a_part_that_cannot_be_read_has_no_options():
    assert outline.option_keys("heads", "nothing") == {}
    assert outline.option_keys("weights", "glyphs_conv64") == {}  # names a folder, not a class


def test_the_parts_that_a_recipe_chooses_are_those_it_loads():
    for name in installed_recipes():
        recipe, chosen = load_recipe(name), chosen_parts(name)
        assert chosen[("dataset",)] == recipe.dataset.name
        for place in PARTS:
            part = recipe
            for word in place:
                part = getattr(part, word, None)
            if place in chosen:
                assert part.name == chosen[place], (name, place)


def test_what_is_no_recipe_chooses_nothing(tmp_path):
    (tmp_path / "list.yaml").write_text("[1]")
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "loop.yaml").write_text("base: loop\nhead: emd\n")
    assert chosen_parts(str(tmp_path / "list.yaml")) == chosen_parts(str(tmp_path / "bad.yaml")) == {}
    assert chosen_parts("no_such_recipe") == {} and chosen_parts(str(tmp_path / "loop.yaml")) == {("head",): "emd"}
