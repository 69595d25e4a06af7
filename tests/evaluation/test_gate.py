"""The gate of `--check`: an accuracy passes down to the expected one less the tolerance, and no further."""

import json
import math

import pytest

from fewshot_cli.config.load import load_recipe
from fewshot_cli.evaluation import classification, episodes
from fewshot_cli.evaluation.results import judge

PROTOCOLS = {
    "episodes": {"head": "emd", "way": 5, "shot": 1, "query": 15, "episodes": 600},
    "classification": {"protocol": "classification", "classifier": "linear", "top5": 90.0, "pictures": 600},
}


def expecting(tmp_path, protocol, accuracy=60.0, tolerance=2.0):
    """A recipe of one protocol that expects something."""
    path = tmp_path / "gate.yaml"
    path.write_text(
        f"base: glyphs_5w1s\neval: {{protocol: {protocol}}}\n"
        f"expect: {{accuracy: {accuracy}, tolerance: {tolerance}, source: a test}}\n"
    )
    return load_recipe(str(path))


def summary(protocol, accuracy):
    """What an evaluation reports, as far as the gate and the report read it."""
    return {
        **PROTOCOLS[protocol],
        "recipe": "gate",
        "dataset": "glyphs",
        "solver": None,
        "classes": 20,
        "accuracy": accuracy,
        "ci95": 0.5,
        "interval": "none",
        "seed": 1,
        "weights": "none",
        "not_converged": 0,
        "seconds": {"total": 1.0},
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("accuracy", "passed"),
    [
        (58.0, True),
        (math.nextafter(58.0, 100), True),
        (math.nextafter(58.0, 0), False),
        (58.01, True),
        (57.99, False),
        (60.0, True),
        (61.9, True),
        (75.0, True),  # better than expected passes too
        (0.0, False),
    ],
)
def test_an_accuracy_passes_down_to_the_tolerance(tmp_path, protocol, accuracy, passed):
    judged = judge(summary(protocol, accuracy), expecting(tmp_path, protocol))
    assert judged["passed"] is passed
    assert judged["expect"] == {"accuracy": 60.0, "tolerance": 2.0, "source": "a test"}
    assert judged["accuracy"] == accuracy


@pytest.mark.parametrize(("tolerance", "passed"), [(0.5, False), (1.5, True)])
def test_the_tolerance_decides(tmp_path, tolerance, passed):
    assert judge(summary("episodes", 59.0), expecting(tmp_path, "episodes", 60.0, tolerance))["passed"] is passed


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("accuracy", "code"), [(58.01, 0), (57.99, 1)])
def test_the_command_exits_by_the_tolerance(fsl, tmp_path, monkeypatch, protocol, accuracy, code):
    loaded = expecting(tmp_path, protocol)

    def measured(*_):
        return judge(summary(protocol, accuracy), loaded)

    monkeypatch.setattr(episodes, "evaluate_episodes", measured)
    monkeypatch.setattr(classification, "evaluate_classes", measured)
    words = ("--recipe", tmp_path / "gate.yaml", "--check", "--format", "json", "--device", "cpu")
    got, out, err = fsl("eval", *words)
    assert got == code, err
    assert json.loads(out)["passed"] is (code == 0)
    assert ("is below 60.0 ± 2.0" in err) is (code == 1)
