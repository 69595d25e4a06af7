"""The campaigns of `benchmarks/reliability` at a small size; what each looks for stands in its own docstring."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "reliability"
SIZES = {
    "commands": ("fuzz.py", "commands", 60),
    "recipes": ("fuzz.py", "recipes", 150),
    "disk": ("disk.py", 3),
    "files": ("files.py", 15),
    "images": ("images.py", 200),
    "kills": ("kills.py", 4),
    "pairs": ("pairs.py", 5),
    "server": ("server.py", 40),
    "transport": ("transport.py", 160),
}


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="only in a checkout")
@pytest.mark.parametrize("name", SIZES)
def test_a_campaign_finds_nothing(name):
    script, *words, tries = SIZES[name]
    command = [sys.executable, FOLDER / script, *words, "--tries", str(tries)]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["tries"] >= tries and found["faults"] == []
