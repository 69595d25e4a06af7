"""The suites that ship for heads, backbones, classifiers, extractors and datasets: every registered part keeps them, a
broken one does not, and neither does one that comes from outside.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import fewshot_cli
from fewshot_cli import registry
from fewshot_cli.contracts import Backbone, Classifier, DatasetBuilder, Extractor, Head, Options
from fewshot_cli.testing import parts
from fewshot_cli.testing.case import Failed

ALL = [
    (kind, name, check)
    for kind in parts.SUITES
    for name in registry.entries(f"{kind}s")
    for check in parts.SUITES[kind]
]


@pytest.mark.parametrize(("kind", "name", "check"), ALL)
def test_a_part_keeps_its_contract(kind, name, check):
    parts.SUITES[kind][check](name)


class Good(Head[Options]):
    """Negative squared distance to the class's mean, of pooled features."""

    def forward(self, support, query):
        means, pooled = support.mean((2, 4, 5)), query.mean((3, 4))
        return -(pooled[:, :, None] - means[:, None]).square().sum(-1)


class Weighted(Good):
    """The same with a learned scale."""

    def __init__(self, options=None, *, channels, solver=None):
        super().__init__(options, channels=channels, solver=solver)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, support, query):
        return self.scale * super().forward(support, query)


class Shapes(Good):
    """Logits the wrong way round."""

    def forward(self, support, query):
        return super().forward(support, query).mT


class Batches(Good):
    """Normalised over the batch of episodes."""

    def forward(self, support, query):
        logits = super().forward(support, query)
        return logits - logits.mean()


class Queries(Good):
    """A query is compared with the other queries of its episode."""

    def forward(self, support, query):
        logits = super().forward(support, query)
        return logits - logits.mean(1, keepdim=True)


class Order(Good):
    """The first class is preferred."""

    def forward(self, support, query):
        logits = super().forward(support, query)
        return logits - torch.arange(logits.shape[2])


class State(Good):
    """Remembers how often it was called."""

    calls = 0

    def forward(self, support, query):
        self.calls += 1
        return super().forward(support, query) * self.calls


class Modifies(Good):
    """Works in the caller's memory."""

    def forward(self, support, query):
        support.sub_(1)
        return super().forward(support, query)


class Gradients(Good):
    """No gradient reaches the support."""

    def forward(self, support, query):
        return super().forward(support.detach(), query)


class Saved(Weighted):
    """Its scale is not all that it computes with."""

    def __init__(self, options=None, *, channels, solver=None):
        super().__init__(options, channels=channels, solver=solver)
        self.hidden = torch.rand(()).item()
        torch.manual_seed(torch.seed())

    def forward(self, support, query):
        return super().forward(support, query) + self.hidden * self.scale * query.mean((2, 3, 4))[:, :, None]


class Honest(Good):
    """NaN is taken for nothing."""

    def forward(self, support, query):
        return super().forward(support, query).nan_to_num()


class Elements(Good):
    """Says that it needs nothing."""

    def elements(self, way, shot, query, positions):
        return 0


@pytest.fixture
def registered(monkeypatch):
    """Register a class under the name `mine`."""

    def make(kind, cls):
        real = registry.part
        monkeypatch.setattr(registry, "part", lambda k, n: cls if (k, n) == (f"{kind}s", "mine") else real(k, n))
        return "mine"

    return make


@pytest.mark.parametrize("head", [Good, Weighted])
def test_a_right_head_passes_every_check(registered, head):
    name = registered("head", head)
    assert {check: parts.outcome(run)[0] for check, run in parts.suite("head", name).items()} == {
        **dict.fromkeys(parts.SUITES["head"], "passed"),
        **({"saved": "skipped"} if head is Good else {}),
    }


@pytest.mark.parametrize(
    ("head", "check", "sentence"),
    [
        (Shapes, "shapes", "logits are"),
        (Batches, "batches", "depend on its batch"),
        (Queries, "batches", "depend on the other queries"),
        (Order, "order", "the order of classes changes logits"),
        (State, "state", "depend on an earlier call"),
        (Modifies, "state", "inputs were modified"),
        (Gradients, "gradients", "no gradient reaches the features of the support"),
        (Honest, "honest", "NaN features"),
        (Elements, "elements", "not a positive whole number"),
    ],
)
def test_a_broken_head_is_caught(registered, head, check, sentence):
    name = registered("head", head)
    with pytest.raises(Failed, match=sentence):
        parts.SUITES["head"][check](name)


def test_weights_outside_the_state_dict_are_caught(registered, monkeypatch):
    name = registered("head", Saved)
    seeds = iter(range(100))
    monkeypatch.setattr(torch, "manual_seed", lambda _, real=torch.manual_seed: real(next(seeds)))
    with pytest.raises(Failed, match="does not hold all that it computes with"):
        parts.SUITES["head"]["saved"](name)


class Loose(Good):
    """Takes any option."""

    class Options(Options):
        """No limits."""

        model_config = {"extra": "allow", "frozen": False}


class Lying(Backbone[Options]):
    """One convolution, whose channels are others than it says."""

    channels = 9

    def __init__(self, options=None):
        super().__init__(options)
        self.layer = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, images):
        return self.layer(images)


class Restless(Lying):
    """Drops values in evaluation too."""

    channels = 8

    def forward(self, images):
        return nn.functional.dropout(self.layer(images), 0.5)


class Idle(Lying):
    """Has a layer that it does not use."""

    channels = 8

    def __init__(self, options=None):
        super().__init__(options)
        self.unused = nn.Linear(2, 2)


class Flat(Classifier[Options]):
    """One logit too many, at no cost."""

    def __init__(self, options=None, *, channels, classes, solver=None):
        super().__init__(options, channels=channels, classes=classes, solver=solver)
        self.weight = nn.Parameter(torch.rand(channels, classes + 1))

    def forward(self, maps):
        return maps.mean((2, 3)) @ self.weight


class Outside(Extractor[Options]):
    """Patches beyond the image's edge, drawn at random although it does not say so."""

    patches = 2

    def boxes(self, sizes, rng, training):
        low = torch.rand(len(sizes), 2, 2, generator=rng)
        return torch.cat([low, torch.ones_like(low)], -1), torch.zeros(len(sizes), 2, dtype=torch.bool)

    def tiles(self, boxes):
        return boxes[:1]


class Anything(DatasetBuilder[Options]):
    """Takes whatever it is given for an image."""

    urls = {"it.zip": ("http://example.org/it.zip", None)}  # noqa: RUF012

    def build(self, sources, writer):
        import numpy as np

        writer.add("train", "thing", np.zeros((4, 4, 3), np.uint8), "0")


@pytest.mark.parametrize(
    ("kind", "cls", "check", "sentence"),
    [
        ("head", Loose, "options", "not frozen and strict"),
        ("backbone", Lying, "shapes", "have 8 channels, it says 9"),
        ("backbone", Restless, "evaluation", "the second time"),
        ("backbone", Idle, "gradients", "no gradient reaches its parameter unused"),
        ("classifier", Flat, "shapes", r"not \[3, 5\]"),
        ("classifier", Flat, "cost", "not a positive whole number"),
        ("extractor", Outside, "boxes", "lies outside the image"),
        ("extractor", Outside, "draws", "`random` does not say"),
        ("extractor", Outside, "tiles", "tiles are"),
        ("dataset", Anything, "described", "does not say what --from takes"),
        ("dataset", Anything, "refuses", "was not refused"),
    ],
)
def test_another_broken_part_is_caught(registered, kind, cls, check, sentence):
    name = registered(kind, cls)
    with pytest.raises(Failed, match=sentence):
        parts.SUITES[kind][check](name)


PLUGIN = """
import torch
from fewshot_cli.contracts import Head, Options

class Right(Head[Options]):
    '''Negative squared distance to the class's mean.'''

    def forward(self, support, query):
        means, pooled = support.mean((2, 4, 5)), query.mean((3, 4))
        return -(pooled[:, :, None] - means[:, None]).square().sum(-1)

class Wrong(Right):
    '''Prefers the first class.'''

    def forward(self, support, query):
        logits = super().forward(support, query)
        return logits - torch.arange(logits.shape[2])
"""


def test_fsl_doctor_checks_a_head_of_another_package(tmp_path):
    """A distribution as pip leaves it: a module, and its metadata with entry points."""
    (tmp_path / "others_heads.py").write_text(PLUGIN)
    info = tmp_path / "others_heads-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others-heads\nVersion: 1.0\n")
    points = "mine = others_heads:Right\nbroken = others_heads:Wrong\n"
    (info / "entry_points.txt").write_text(f"[fewshot_cli.heads]\n{points}")
    root = os.path.dirname(os.path.dirname(fewshot_cli.__file__))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}

    def doctor(name):
        words = [sys.executable, "-m", "fewshot_cli", "doctor", "--check", name, "--format", "json"]
        done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path)
        return done.returncode, json.loads(done.stdout), done.stderr

    code, rows, err = doctor("head:mine")
    assert code == 0 and {row["outcome"] for row in rows} == {"passed", "skipped"}, err
    assert {row["head"] for row in rows} == {"mine"} and [row["check"] for row in rows] == list(parts.SUITES["head"])
    code, rows, err = doctor("head:broken")
    failed = [row for row in rows if row["outcome"] == "failed"]
    assert code == 1 and [row["check"] for row in failed] == ["order"] and "1 of 9 checks failed" in err


@pytest.mark.parametrize("word", ["emd", "heads:emd", "head:", "recipe:x"])
def test_a_check_of_another_form_gets_a_sentence(fsl, word):
    code, _, err = fsl("doctor", "--check", word)
    assert code == 2 and "write KIND:NAME with a kind of solver, head, backbone" in err


def test_an_unknown_part_gets_the_nearest_name(fsl):
    code, _, err = fsl("doctor", "--check", "head:emdd")
    assert code == 2 and "did you mean 'emd'" in err
