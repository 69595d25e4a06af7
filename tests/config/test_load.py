"""Faults of options are named by the keys of the data, whatever the model is made of."""

import pytest
from pydantic import BaseModel, ConfigDict

from fewshot_cli.config.load import validate_options
from fewshot_cli.errors import RecipeError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sizes: list[int] | int = 1
    levels: dict[str, tuple[Inner, ...]] = {}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"sizes": ["a"]}, "mine.yaml: sizes.0: must be a whole number, not 'a'"),
        ({"levels": {"low": [{"widht": 3}]}}, "mine.yaml: levels.low.0.widht: unknown key (did you mean 'width'?)"),
        ({"levels": {"low": [{}]}}, "mine.yaml: levels.low.0.width: is missing"),
    ],
)
def test_a_fault_has_the_keys_of_the_data(data, sentence):
    with pytest.raises(RecipeError) as error:
        validate_options(Options, data, "mine.yaml")
    assert str(error.value).startswith(sentence)
