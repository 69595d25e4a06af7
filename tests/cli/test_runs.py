"""`fsl runs ls|show|rm|path`."""

import json

import pytest

from fewshot_cli.runtime.runs import Run


@pytest.fixture
def two(fsl, tmp_path):
    """A finished evaluation and an unfinished pre-training."""
    recipe = {"name": "glyphs_5w1s", "episode": {"way": 5, "shot": 1}, "seed": 1, "dataset": {"name": "glyphs"}}
    done = Run(tmp_path / "runs/eval/glyphs_5w1s", "eval", recipe, {}, False)
    done.finish({"accuracy": 65.533, "ci95": 4.381, "episodes": 20, "split": "test", "weights": "shipped:glyphs"})
    Run(tmp_path / "runs/pretrain/mine", "pretrain", {"name": "mine"}, {}, False)


def test_runs_are_listed_and_filtered(fsl, two):
    code, out, _ = fsl("runs", "ls", "--format", "json")
    rows = {row["run"]: row for row in json.loads(out)}
    assert code == 0 and set(rows) == {"runs/eval/glyphs_5w1s", "runs/pretrain/mine"}
    assert rows["runs/eval/glyphs_5w1s"] | {"date": "", "bytes": 0} == {
        "run": "runs/eval/glyphs_5w1s",
        "kind": "eval",
        "recipe": "glyphs_5w1s",
        "date": "",
        "state": "finished",
        "accuracy": 65.533,
        "ci95": 4.381,
        "bytes": 0,
    }
    assert "65.53 ± 4.38" in fsl("runs", "ls")[1]
    _, out, _ = fsl("runs", "ls", "--kind", "pretrain", "--format", "csv")
    assert out.splitlines()[0].startswith("run,kind,recipe,date,state") and len(out.splitlines()) == 2
    _, out, _ = fsl("runs", "ls", "--recipe", "some/mine.yaml", "--format", "md")
    assert "runs/pretrain/mine" in out and "eval" not in out


def test_without_runs_a_sentence_says_so(fsl):
    assert fsl("runs", "ls") == (0, "", "runs: there are no runs; `fsl eval` makes one\n")
    assert fsl("runs", "ls", "--kind", "eval")[2].startswith("runs: there are no such runs")
    assert fsl("runs", "ls", "--format", "json")[:2] == (0, "[]\n")


def test_a_run_is_shown_with_the_command_that_goes_on(fsl, two):
    code, out, err = fsl("runs", "show", "eval/glyphs_5w1s")
    assert code == 0 and err == ""
    assert "accuracy: 65.53 ± 4.38 %" in out and "task: 5-way 1-shot" in out and "bytes" not in out
    code, out, _ = fsl("runs", "show", "glyphs_5w1s", "--format", "json")
    facts = json.loads(out)
    assert code == 0 and facts["accuracy"] == 65.533 and facts["summary"]["episodes"] == 20
    assert facts["config"]["verb"] == "eval"
    _, _, err = fsl("runs", "show", "runs/pretrain/mine")
    assert err == "next: fsl pretrain --recipe mine.yaml --run-dir runs/pretrain/mine --resume\n"


def test_the_newest_run_of_a_recipe_is_printed_for_scripts(fsl, two):
    assert fsl("runs", "path", "glyphs_5w1s") == (0, "runs/eval/glyphs_5w1s\n", "")
    code, out, err = fsl("runs", "path", "mine")
    assert code == 3 and out == "" and "--unfinished" in err
    assert fsl("runs", "path", "mine", "--unfinished")[1] == "runs/pretrain/mine\n"


def test_runs_are_removed_after_a_yes_only(fsl, two, tmp_path, monkeypatch):
    code, _, err = fsl("runs", "rm", "eval/glyphs_5w1s")
    assert code == 2 and "nobody can be asked here" in err and "--yes" in err
    assert (tmp_path / "runs/eval/glyphs_5w1s/config.json").exists()
    code, _, err = fsl("runs", "rm", "eval/glyphs_5w1s", "runs/pretrain/none", "--yes")
    assert code == 3 and "none: there is no such run" in err
    assert (tmp_path / "runs/eval/glyphs_5w1s/config.json").exists()
    code, _, err = fsl("runs", "rm", "eval/glyphs_5w1s", "runs/eval/glyphs_5w1s", "runs/pretrain/mine", "--yes")
    assert code == 0 and err.startswith("removed runs/eval/glyphs_5w1s, runs/pretrain/mine (")
    assert list((tmp_path / "runs").rglob("*.json")) == []


def test_runs_are_compared_and_reported_by_their_recipes(fsl, glyph_root, tmp_path):
    words = ("--episodes", "4", "--data-root", glyph_root)
    assert fsl("eval", "glyphs_5w1s", *words)[0] == 0 and fsl("eval", "glyphs_5w1s", "--seed", "2", *words)[0] == 0
    fsl("recipe", "cp", "glyphs_5w1s", "mine.yaml")
    assert fsl("eval", "--recipe", "mine.yaml", "--set", "head=prototype", *words, "--seed", "2")[0] == 0
    code, out, err = fsl("compare", "glyphs_5w1s", "mine", "--format", "csv")
    assert code == 0, err
    assert out.splitlines()[1].startswith("glyphs_5w1s-2,mine,4,")  # the newer of the two
    assert fsl("report", "mine", "-o", "r.html", "--data-root", glyph_root)[0] == 0 and (tmp_path / "r.html").exists()
    code, out, err = fsl("compare", "glyphs_5w1s", "none_such")
    assert (code, out) == (3, "") and "there is no eval run of recipe none_such" in err
