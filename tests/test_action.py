"""`action.yml`: what it declares is what it uses, and its shell steps do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "action.yml").read_text("utf-8")
ACTION = yaml.safe_load(TEXT)
STEPS = {step["id"]: step for step in ACTION["runs"]["steps"] if "id" in step}


def test_inputs_are_documented_and_used_and_nothing_else_is():
    used = set(re.findall(r"inputs\.([\w-]+)", TEXT))
    assert used == set(ACTION["inputs"])
    assert all(given["description"].endswith((".", "`")) for given in ACTION["inputs"].values())
    assert ACTION["inputs"]["recipe"]["required"] and "default" not in ACTION["inputs"]["recipe"]
    for output in ACTION["outputs"].values():
        step, name = re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.(\w+) \}\}", output["value"]).groups()
        assert f'echo "{name}=' in STEPS[step]["run"]


def test_scripts_get_what_users_give_through_the_environment_alone():
    """An expression in a script would be run as a part of it."""
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        assert ("run" in step) == (step.get("shell") == "bash")
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) if "uses" in step else step["id"]
    assert "upload" not in TEXT.split("runs:")[1]


class Job:
    """A job on this machine: its folders, its inputs, and its steps."""

    def __init__(self, folder: Path, **inputs: str) -> None:
        self.folder, self.bin = folder, folder / "bin"
        for name in ("bin", "temp", "work"):
            (folder / name).mkdir()
        defaults = {name: given.get("default", "") for name, given in ACTION["inputs"].items()}
        self.context = {f"inputs.{name}": value for name, value in (defaults | inputs).items()}
        places = {"runner.temp": "temp", "github.workspace": "work"}
        self.context |= {name: str(folder / place) for name, place in places.items()}
        self.context["github.action_path"] = str(ROOT)
        self.files = {name: folder / name for name in ("GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}

    def command(self, name: str, script: str) -> None:
        """A command that the steps find."""
        (self.bin / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.bin / name).chmod(0o755)

    def expand(self, text: str) -> str:
        for _ in range(2):  # a default may hold an expression
            text = re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda found: self.context[found[1]], text)
        return text

    def run(self, step: str) -> subprocess.CompletedProcess:
        """Run a step as GitHub does."""
        environment = {name: self.expand(value) for name, value in STEPS[step]["env"].items()}
        environment |= {name: str(path) for name, path in self.files.items()}
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[step]["run"]],
            env={**os.environ, **environment, "PATH": path},
            cwd=self.folder / "work",
            capture_output=True,
            text=True,
        )


@pytest.mark.parametrize(("extras", "wanted"), [("", ""), ("photos,weights", "[photos,weights]")])
def test_installing_takes_the_constraints_and_puts_fsl_on_the_path(tmp_path, extras, wanted):
    job = Job(tmp_path, recipe="r", extras=extras)
    job.command("pip", 'printf "%s\\n" "$@" > "$GITHUB_OUTPUT"')
    job.command("python3", f'mkdir -p "$3/bin"; cp "{job.bin}/pip" "$3/bin/"')
    done = job.run("install")
    assert done.returncode == 0, done.stderr
    given = job.files["GITHUB_OUTPUT"].read_text().splitlines()
    assert given[0] == "install" and given[-1] == f"{ROOT}{wanted}"
    assert given[given.index("-c") + 1] == str(ROOT / "constraints.txt")
    assert job.files["GITHUB_PATH"].read_text().strip() == str(tmp_path / "temp" / "fsl-venv" / "bin")


def test_preparing_passes_words_on_as_they_are(tmp_path):
    job = Job(tmp_path, recipe="r", prepare="images\n--from=my photos/$(touch hacked)\n\n--name=mine\n")
    job.command("fsl", 'printf "%s\\n" "$FSL_DATA_ROOT" "$@"')
    out = job.run("prepare").stdout.splitlines()
    words = ["prepare", "images", "--from=my photos/$(touch hacked)", "--name=mine"]
    assert out == [str(tmp_path / "work" / ".fsl" / "data"), *words]


@pytest.mark.slow
@pytest.mark.parametrize(("expected", "code"), [(1, 0), (100, 1)])
def test_evaluating_judges_reports_and_summarises(tmp_path, tiny, expected, code):
    recipe = tmp_path / "gate.yaml"
    expect = f"{{accuracy: {expected}, tolerance: 0.01, source: a test}}"
    recipe.write_text(f"base: {tiny.recipe}\nweights: none\nexpect: {expect}\n")
    job = Job(tmp_path, recipe=str(recipe), arguments="--solver=pot\n", **{"data-root": str(tiny.root)})
    job.command("fsl", f'PYTHONPATH="{ROOT}:$PYTHONPATH" exec "{sys.executable}" -m fewshot_cli "$@"')
    done = job.run("evaluate")
    assert done.returncode == code, done.stderr
    report = (tmp_path / "work" / "fsl-eval.xml").read_text()
    assert "<testsuite" in report and ("<failure" in report) == bool(code)
    outputs = dict(line.split("=", 1) for line in job.files["GITHUB_OUTPUT"].read_text().splitlines())
    assert outputs["junit"] == "fsl-eval.xml" and 0 <= float(outputs["accuracy"]) <= 100
    assert ("::error title=fsl eval" if code else "::notice title=fsl eval") in done.stdout
    assert ("missed" if code else "passed") in job.files["GITHUB_STEP_SUMMARY"].read_text()


def test_an_evaluation_that_fails_before_it_begins_says_so(tmp_path):
    job = Job(tmp_path, recipe="r")
    job.command("fsl", "echo 'fsl: no such recipe' >&2; exit 2")
    done = job.run("evaluate")
    assert done.returncode == 2 and "fsl: no such recipe" in done.stderr
    assert "::error title=fsl eval::fsl eval ended with exit code 2" in done.stdout
