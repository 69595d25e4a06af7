"""Machine code of kernels: never older than its sources, kept without touching a setting, or not kept at all."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fewshot_cli
from fewshot_cli.kernels import compile as compiling

ROOT = Path(fewshot_cli.__file__).resolve().parents[1]
KERNEL = """
import sys
import numpy as np
from fewshot_cli.kernels import vectors
from fewshot_cli.kernels.compile import folder, njit

@njit(title="a test")
def exponential(x, out):
    vectors.store(out, 0, vectors.exp(vectors.load(x, 0)))

if __name__ == "__main__":
    out = np.empty(8)
    exponential(np.linspace(-1, 1, 8), out)
    print(sum(exponential.stats.cache_hits.values()), repr(out.tolist()))
"""


def run(script: Path, *, package: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    """The script in a process of its own, with the package in a folder."""
    env = {**os.environ, "PYTHONPATH": str(package), **env}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env, cwd=script.parent)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def script(tmp_path):
    """A module with a kernel, outside the package."""
    path = tmp_path / "exponential.py"
    path.write_text(KERNEL)
    return path


@pytest.mark.slow
def test_an_edited_vector_operation_is_compiled_anew(script, tmp_path):
    package = tmp_path / "package"
    for name in ("fewshot_cli", "solvers", "heads", "backbones", "recipes"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", package)
    vectors = package / "fewshot_cli" / "kernels" / "vectors.py"
    env = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, again = (run(script, package=package, **env).stdout for _ in range(2))
    assert first.startswith("0 ") and again.startswith("1 ")  # kept, and found again
    assert first[2:] == again[2:]
    source = vectors.read_text()
    shorter = re.sub(r"^TERMS = \{16: 8, 8: 14\}", "TERMS = {16: 2, 8: 2}", source, flags=re.M)
    assert shorter != source
    vectors.write_text(shorter)
    assert run(script, package=package, **env).stdout.startswith("0 ")
    assert run(script, package=package, **env).stdout[2:] != first[2:]


def test_every_module_that_compiles_is_in_the_hash_and_what_it_imports_too():
    hashed = {path.relative_to(ROOT).as_posix() for path in map(Path.resolve, compiling.sources())}
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in ("fewshot_cli", "solvers", "heads", "backbones")
        for path in (ROOT / folder).rglob("*.py")
        if "kernels.compile import" in path.read_text("utf-8")
    ]
    assert len(users) >= 4 and set(users) <= hashed
    assert {"fewshot_cli/kernels/vectors.py", "fewshot_cli/kernels/compile.py"} <= hashed


def test_importing_solvers_and_heads_changes_no_setting(tmp_path):
    script = tmp_path / "settings.py"
    script.write_text(
        "import os, numba\n"
        "def settings(): return {k: repr(getattr(numba.config, k)) for k in dir(numba.config) if k.isupper()}\n"
        "before, variables = settings(), {k: v for k, v in os.environ.items() if 'NUMBA' in k}\n"
        "import fewshot_cli.solvers.network_simplex.kernel, fewshot_cli.solvers.sinkhorn.scaling_kernel\n"
        "import fewshot_cli.heads.sfc.kernel\n"
        "assert settings() == before\n"
        "assert {k: v for k, v in os.environ.items() if 'NUMBA' in k} == variables\n"
    )
    run(script)


def test_a_cache_that_cannot_be_written_is_one_sentence_and_the_work_is_done(script, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run(script, NUMBA_CACHE_DIR=str(tmp_path / "file" / "below"))
    assert done.stdout.startswith("0 [0.36787944")
    notes = [line for line in done.stderr.splitlines() if line.startswith("note:")]
    assert len(notes) == 1 and "cannot be kept in" in notes[0] and "set NUMBA_CACHE_DIR" in notes[0]
    assert compiling.unwritable_reason(tmp_path / "file" / "below") is not None
    assert compiling.unwritable_reason(tmp_path / "fine") is None


def test_with_stderr_closed_nothing_is_said_on_stdout(script, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(f"{sys.executable} {script} 2>&-", shell=True, stdout=subprocess.PIPE, text=True, env=env)
    assert done.returncode == 0 and done.stdout.startswith("0 [0.36787944") and done.stdout.count("\n") == 1


def test_what_is_being_compiled_is_said_once(script, tmp_path):
    done = [run(script, NUMBA_CACHE_DIR=str(tmp_path / "cache")).stderr for _ in range(2)]
    assert done[0].count("compiling a test, once for this machine") == 1 and done[1] == ""
