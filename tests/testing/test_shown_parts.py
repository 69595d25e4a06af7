"""The parts that docs/extend.md shows are whole, short, and keep the contracts that it says they keep."""

import re
from pathlib import Path

import pytest

from fewshot_cli import registry
from fewshot_cli.testing import parts

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extend.md").read_text("utf-8")
SHOWN = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture(params=["Northwest", "Nearest", "Patches", "Birds"])
def shown(request, monkeypatch):
    """A class of the page, registered under the name `mine`."""
    (code,) = (code for code in SHOWN if f"class {request.param}(" in code)
    assert len(code.splitlines()) <= 20
    scope: dict = {}
    exec(compile(code, request.param, "exec"), scope)
    cls, real = scope[request.param], registry.part
    monkeypatch.setattr(registry, "part", lambda kind, name: cls if name == "mine" else real(kind, name))
    return cls


KINDS = {"Northwest": "solver", "Nearest": "head", "Patches": "backbone", "Birds": "dataset"}


def test_a_shown_part_keeps_its_contract(shown):
    suite = parts.suite(KINDS[shown.__name__], "mine")
    outcomes = {label: parts.outcome(check) for label, check in suite.items()}
    failed = {label for label, (result, _) in outcomes.items() if result == "failed"}
    if shown.__name__ == "Northwest":  # the page says why
        assert failed == {"optimal", "consistent"} and "value" in outcomes["optimal"][1], outcomes
    else:
        assert not failed and "passed" in {result for result, _ in outcomes.values()}, outcomes
