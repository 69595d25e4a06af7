"""The examples at the end of each verb's help do what they say, in a folder with images, as a user has them."""

import shlex
import shutil
from pathlib import Path

import pytest
from glyph_files import save

from fewshot_cli.cli import guide
from fewshot_cli.errors import Exit

# those that take longer than the others together
SLOW = (
    "fsl profile",
    "fsl doctor",
    "fsl weights verify",
    "fsl export",
    "fsl open-set",
    "fsl table",
    "fsl sweep",
    "fsl report",
)
EXAMPLES = sorted({one.command for entry in guide.GUIDE.values() for one in entry.examples if not one.needs})


@pytest.fixture(scope="session")
def pictures(glyph_root, tmp_path_factory) -> Path:
    """`examples/` and `photos/` with class folders, `one.png` and `two.png`."""
    folder = tmp_path_factory.mktemp("pictures")
    save(glyph_root, folder / "examples", range(5), slice(0, 3))
    save(glyph_root, folder / "photos", range(2), slice(5, 8))
    for name in "01":
        shutil.copy(folder / f"photos/class0/{name}.png", folder / f"photos/{name}.png")
    shutil.copy(folder / "photos/class0/0.png", folder / "one.png")
    shutil.copy(folder / "photos/class0/1.png", folder / "two.png")
    return folder


def before(command: str) -> list[str]:
    """Commands whose results an example needs."""
    if command.startswith("fsl recipe set"):
        return ["fsl recipe cp glyphs_5w1s mine.yaml"]
    if command.startswith(("fsl compare", "fsl runs", "fsl report")):
        return ["fsl eval glyphs_5w1s --episodes 20", "fsl eval glyphs_5w1s --set head=prototype --episodes 20"]
    if command.startswith("fsl gallery") and " add " not in command:
        return ["fsl gallery add mine/ photos/"]
    return []


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=pytest.mark.slow) if c.startswith(SLOW) else c for c in EXAMPLES]
)
def test_an_example_works(fsl, monkeypatch, tmp_path, glyph_root, pictures, command):
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("FSL_DATA_ROOT", str(glyph_root))
    for words in (*before(command), command):
        code, out, err = fsl(*shlex.split(words)[1:])
        assert code == Exit.OK, err
        assert out or err
