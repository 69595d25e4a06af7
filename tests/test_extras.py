"""The extras that pyproject.toml declares."""

import re
import tomllib

import pages

EXTRAS = tomllib.loads((pages.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def test_an_extra_takes_in_only_extras_that_exist():
    named = {
        extra
        for wanted in EXTRAS.values()
        for one in wanted
        for inside in re.findall(r"^fewshot-cli\[(.*)\]", one)
        for extra in inside.split(",")
    }
    assert named and named <= set(EXTRAS)


def test_no_extra_takes_in_both_of_cupys_packages():
    assert not any("cuda1" in one for name, wanted in EXTRAS.items() if not name.startswith("cuda") for one in wanted)
