"""`fsl profile --step`: whose seconds are counted where, and that they are those of one step."""

import itertools
import json

import pytest
import torch

from fewshot_cli.config.load import load_recipe
from fewshot_cli.profiling import steps
from fewshot_cli.runtime.processes import Processes


def test_the_parts_are_those_of_the_median_step():
    """Each part is slow in another round, so that medians of parts would leave out what made the steps slow."""
    names = ("augmentation", "backbone", "objective", "backward", "optimiser")
    quiet = dict(zip(names, (1.0, 2.0, 4.0, 8.0, 1.0), strict=True))
    rounds = [
        {**quiet, slow: quiet[slow] + late, "all": 15.0 + late, "bare": bare}
        for slow, late, bare in (("optimiser", 3.0, 9.0), ("augmentation", 5.0, 6.0), ("backward", 4.0, 3.0))
    ]
    record = steps._record("pretrain", 38, rounds)
    assert record == {
        "stage": "pretrain",
        "pictures": 38,
        "seconds": 19.0,
        "parts": {"augmentation": 1.0, "backbone": 2.0, "backward": 12.0, "optimiser": 1.0, "head": 2.0},
        "pictures_per_second": 2.0,
        "share": pytest.approx(6 / 19),
    }
    assert steps._record("pretrain", 38, rounds[:2])["seconds"] == 18.0  # of two the quicker one
    transported = [{**r, "transport": 0.5} for r in rounds]
    assert steps._record("metatrain", 38, transported)["parts"]["head"] == 1.5


def test_each_part_is_timed_once_and_the_whole_holds_all(tiny):
    """On a clock that goes on by a second whenever it is read, seconds count the readings between a part's two."""
    recipe = load_recipe(str(tiny.recipe), ["metatrain.episodes_per_step=1"])
    first, second = steps.profile_steps(recipe, Processes(torch.device("cpu")), 2, itertools.count().__next__)
    assert first["parts"] == {"augmentation": 1, "backbone": 1, "head": 2, "backward": 1, "optimiser": 1}
    assert (first["seconds"], first["share"]) == (11, 1 / 11)  # ten readings inside
    assert second["parts"] == {**first["parts"], "transport": 1, "head": 3} and second["seconds"] == 13
    assert (first["pictures"], second["pictures"]) == (64, 5 * (1 + 3))


def test_the_command_prints_what_was_measured(fsl, tiny):
    words = ("profile", "--step", "--recipe", tiny.recipe, "--rounds", "2")
    code, out, err = fsl(*words, "--format", "json")
    assert code == 0, err
    first, second = json.loads(out)["records"]
    assert (first["stage"], second["stage"]) == ("pretrain", "metatrain")
    for record in (first, second):
        assert 0 < sum(record["parts"].values()) <= record["seconds"] and record["share"] > 0
    code, out, _ = fsl(*words, "--format", "md")
    assert code == 0 and "| metatrain | transport |" in out and "64 images in" in out
