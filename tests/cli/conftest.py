"""Input that tests of bad input spoil, and the check that a command is refused."""

import re
from pathlib import Path

import pytest
from spoiled import GOOD, SIDECAR, images

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.data.prepare import build_store
from fewshot_cli.errors import Exit
from fewshot_cli.weights import checkpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A recipe, weights that fit it, and a data root with three classes of eight images in each split."""
    world = tmp_path_factory.mktemp("world")
    (world / "good.yaml").write_text(GOOD)
    folder = images(world / "pictures", [f"{s}/{s}{c}" for s in ("train", "val", "test") for c in "abc"])
    build_store("images", registry.dataset("images")(), [folder], world / "data")
    fresh = build_backbone(load_recipe(str(world / "good.yaml")))
    checkpoint.save(world / "weights.safetensors", {"backbone": fresh}, SIDECAR)
    return world


@pytest.fixture
def refused(fsl):
    """Run a command that must fail: checks the code, the sentence and that there is no traceback; returns stderr."""

    def run(code: Exit, sentence: str, *arguments: object) -> str:
        got, out, err = fsl(*map(str, arguments))
        said = " ".join(err.split())
        assert got == code, said
        assert re.search(sentence, said), said
        assert "Traceback" not in out + err and "internal fault" not in err and out == ""
        return said

    return run
