"""The schema of a sweep's file: cells and a grid, or a search."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fewshot_cli.config import strict_yaml
from fewshot_cli.config.load import Source, validate_options
from fewshot_cli.config.schema import Section


def _listed(given: Any) -> Any:
    """A single name as a tuple of one, which strict validation requires of data that is no longer JSON."""
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


class CellSpec(Section):
    """A recipe with settings of its own; the grid is spread over each."""

    recipe: str = Field(description="name or path of a recipe")
    name: str | None = Field(
        None,
        min_length=1,
        description="what the table calls it (default: the recipe); cells of one name are one method",
    )
    set: dict[str, Any] = Field({}, description="keys of the recipe, with dots")


class RangeSpec(Section):
    """Numbers between two ends; whole ones where both ends are."""

    low: int | float
    high: int | float
    log: bool = Field(False, description="draw the logarithm evenly")
    step: int | float | None = Field(None, gt=0, description="distance of the values from low on")

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return all(isinstance(end, int) for end in (self.low, self.high, self.step or 1))


class SearchSpec(Section):
    """A search of options by their accuracy on validation classes."""

    verb: Literal["pretrain", "metatrain", "eval"] = Field("pretrain", description="what a trial runs")
    sampler: Literal["tpe", "random"] = Field("tpe", description="tree-structured Parzen estimators, or at random")
    trials: Annotated[int, Field(ge=1, le=100_000)] = 20
    seed: int = Field(1, ge=0, lt=2**31, description="of the sampler")
    prune: bool = Field(True, description="stop a training that is worse than the median of the others at its epoch")
    space: dict[str, Any] = Field(
        min_length=1, description="keys of the recipe, each with a range (`RangeSpec`) or a list of values"
    )


class SweepSpec(Section):
    """What `fsl sweep` runs."""

    recipe: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    cells: tuple[CellSpec, ...] = ()
    set: dict[str, Any] = Field({}, description="keys of every cell's recipe, with dots")
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        {}, description="keys, each with the values that are tried in every combination"
    )
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="draws of the episodes, from the recipe's on")
    baseline: str | None = Field(None, description="what differences are to (default: the first method)")
    search: SearchSpec | None = None


def load_sweep(path: Path) -> SweepSpec:
    """A sweep's file. Raises `RecipeError` with file and line for the first key or value that is not right."""
    source = Source(str(path), *strict_yaml.load(path))
    spec: SweepSpec = validate_options(SweepSpec, source.data, source)
    if spec.search is None:
        return spec
    space = {key: _values(key, value, source) for key, value in spec.search.space.items()}
    return spec.model_copy(update={"search": spec.search.model_copy(update={"space": space})})


def _values(key: str, given: Any, source: Source) -> RangeSpec | tuple[Any, ...]:
    place = ("search", "space", key)
    if isinstance(given, list):
        if not given:
            raise source.error(place, "has no values; list some, or give low and high")
        return tuple(given)
    if not isinstance(given, dict):
        raise source.error(place, "must be a list of values, or a range with low and high")
    spec: RangeSpec = validate_options(RangeSpec, given, source, place)
    if not spec.low < spec.high:
        raise source.error(place, f"low {spec.low:g} must lie below high {spec.high:g}")
    if spec.log and (spec.low <= 0 or spec.step is not None):
        raise source.error(place, "a range with log needs low above 0 and has no step")
    return spec
