"""What decides the identity of a run: everything that changes its result, no option that only changes its speed."""

import pytest
from pydantic import Field

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.schema import PartSpec
from fewshot_cli.contracts import Options
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.runs import Run

BASE = "glyphs_5w1s"
FASTER = ["solver={name: network_simplex, workers: 2, device: cpu}"]


def load(*sets):
    """The base recipe with some of its keys set."""
    return load_recipe(BASE, list(sets))


@pytest.mark.parametrize(
    ("plain", "faster"),
    [
        ("solver=network_simplex", "solver={name: network_simplex, workers: 2}"),
        ("solver=network_simplex", "solver={name: network_simplex, device: cpu}"),
        ("solver=pot", "solver={name: pot, workers: 2}"),
        ("solver=qpth", "solver={name: qpth, memory: 0.5}"),
        ("head=align", "head={name: align, chunk: 5}"),
        ("pretrain.solver=pot", "pretrain.solver={name: pot, workers: 2}"),
    ],
)
def test_options_of_speed_do_not_decide(plain, faster):
    assert load(plain).resolved() != load(faster).resolved()  # they are kept in the configuration all the same
    assert load(plain).identity() == load(faster).identity()


@pytest.mark.parametrize(
    "setting",
    [
        "solver=pot",
        "solver={name: sinkhorn, regularisation: 0.01}",
        "pretrain.solver=network_simplex",
        "head=prototype",
        "head={name: emd, temperature: 3.0}",
        "backbone={name: conv64, channels: 32}",
        "extractor=grid",
        "dataset.crop=raw",
        "image.size=24",
        "seed=2",
        "episode.shot=5",
        "eval.episodes=7",
        "pretrain.batch=64",
        "metatrain.steps=7",
    ],
)
def test_what_changes_the_result_decides(setting):
    assert load(setting).identity() != load().identity()


@pytest.mark.parametrize("setting", ["description=other words", "expect.tolerance=5.0"])
def test_words_and_expectations_do_not_decide(setting):
    assert load(setting).identity() == load().identity()


class OptionsOfAPlugIn(Options):
    """Options of a part from elsewhere, one of which is marked."""

    threads: int = Field(1, json_schema_extra={"speed": True})
    power: float = Field(1.0, json_schema_extra={"unit": "none"})
    sweeps: int = 3


@pytest.mark.parametrize("place", ["solver", "head"])
@pytest.mark.parametrize(("option", "decides"), [("threads", False), ("power", True), ("sweeps", True)])
def test_the_mark_is_what_counts(place, option, decides):
    one, other = (
        load().model_copy(update={place: PartSpec(name="mine", options=OptionsOfAPlugIn(**options))})
        for options in ({}, {option: 7})
    )
    assert (one.identity() != other.identity()) is decides


@pytest.mark.parametrize("place", ["solver", "head"])
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # no option has the value that it is given here
def test_of_every_part_the_options_without_the_mark_decide(place):
    marked, undecided, count = set(), set(), 0
    for name in registry.entries(f"{place}s"):
        options = registry.part(f"{place}s", name).Options()
        plain = load().model_copy(update={place: PartSpec(name=name, options=options)})
        for option, field in type(options).model_fields.items():
            changed = PartSpec(name=name, options=options.model_copy(update={option: "another value"}))
            other, count = plain.model_copy(update={place: changed}), count + 1
            marked |= {(name, option)} if (field.json_schema_extra or {}).get("speed") else set()
            undecided |= {(name, option)} if other.identity() == plain.identity() else set()
    assert undecided == marked and 0 < len(marked) < count


def test_a_run_is_resumed_with_other_options_of_speed_only(tmp_path):
    def run(resume, *sets):
        loaded = load(*sets)
        return Run(tmp_path / "run", "eval", loaded.resolved(), {"recipe": loaded.identity()}, resume)

    assert not run(False).resumed
    assert run(True, *FASTER).resumed
    with pytest.raises(DataError, match=r"another configuration \(recipe\.head\.options\.temperature\)"):
        run(True, *FASTER, "head.temperature=3.0")
