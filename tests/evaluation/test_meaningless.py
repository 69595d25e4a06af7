"""Features that say nothing never become an accuracy, whatever the head; one episode has no interval."""

import json

import pytest
import torch

from fewshot_cli import registry
from fewshot_cli.config.load import default_part
from fewshot_cli.config.parts import build_head
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.store import Split
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.episodes import run_episodes
from fewshot_cli.runtime.render import plus_minus

D, SIDE = 8, 3


def sampler(shot):
    labels = torch.arange(6).repeat_interleave(12)
    return Sampler(Split("none", "test", list("abcdef"), labels, "0" * 64, {}, None, "raw"), 5, shot, 4, seed=0)


def evaluated(head, maps, shot):
    """Records of three episodes."""
    records = []
    run_episodes(head, maps, sampler(shot), range(3), 3, records.extend)
    return records


def features(kind):
    """Maps [72,D,SIDE,SIDE] as some broken network would give them."""
    maps = torch.rand(72, D, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    if kind == "zero":
        return torch.zeros_like(maps)
    if kind == "one image":
        return maps[:1].expand_as(maps).clone()
    if kind == "one value":
        return torch.full_like(maps, 0.3)
    maps[:, 2, 1, 1] = torch.nan if kind == "NaN" else torch.inf
    return maps


@pytest.mark.parametrize("kind", ["zero", "one image", "one value", "NaN", "infinite"])
@pytest.mark.parametrize("name", registry.entries("heads"))
def test_no_head_makes_an_accuracy_of_them(name, kind):
    head = build_head(default_part("heads", name), D, default_part("solvers", "network_simplex")).eval()
    with pytest.raises(DataError, match="NaN or infinite|the same features for every image|scores all classes alike"):
        evaluated(head, features(kind), 5 if name == "sfc" else 1)


def test_scores_that_are_equal_for_all_classes_are_no_guess():
    head = build_head(default_part("heads", "emd"), D, default_part("solvers", "network_simplex")).eval()
    maps = features("one image") * torch.arange(1.0, 73)[:, None, None, None]  # the angles that it sees are the same
    with pytest.raises(DataError, match=r"episodes 0-2: every query scores all classes alike"):
        evaluated(head, maps, 1)


@pytest.mark.parametrize("name", registry.entries("heads"))
def test_features_that_say_something_do_get_one(name):
    head = build_head(default_part("heads", name), D, default_part("solvers", "network_simplex")).eval()
    maps = torch.rand(72, D, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    assert len(evaluated(head, maps, 5 if name == "sfc" else 1)) == 3


def test_a_network_without_a_pulse_is_refused(fsl, tiny, pretrained, tmp_path):
    from fewshot_cli.weights import checkpoint

    made = checkpoint.load(pretrained / "weights.safetensors")
    dead = {key: torch.zeros_like(x) if x.is_floating_point() else x for key, x in made.tensors.items()}
    checkpoint.save_tensors(
        tmp_path / "dead.safetensors", dead, {k: v for k, v in made.sidecar.items() if k != "sha256"}
    )
    code, out, err = fsl("eval", *tiny.words, "--weights", tmp_path / "dead.safetensors")
    assert code == 3 and out == "" and "the same features for every image" in err


def test_one_episode_has_no_interval(fsl, tiny, pretrained, tmp_path):
    words = ("eval", *tiny.words, "--weights", pretrained / "weights.safetensors", "--episodes", "1")
    got = {}
    for form in ("json", "csv", "md", "table", "junit"):
        code, out, err = fsl(*words, "--format", form)
        assert code == 0, err
        got[form] = out
    assert json.loads(got["json"])["ci95"] is None
    header, row = (line.split(",") for line in got["csv"].splitlines()[:2])
    assert row[header.index("± 95 %")] == ""
    assert "±" not in got["junit"] and "± 0.00" not in "".join(got.values())
    code, _, err = fsl(*words, "--write-expect", tmp_path / "mine.yaml")
    assert code == 2 and "one episode says too little" in err and not (tmp_path / "mine.yaml").exists()


def test_an_interval_is_printed_where_there_is_one():
    assert plus_minus(61.784, 0.451) == "61.78 ± 0.45" and plus_minus(61.784, None) == "61.78"
    assert plus_minus(1.5, 0.25, "+") == "+1.50 ± 0.25" and plus_minus(-1.5, None, "+") == "-1.50"
