"""`eval --format github`: annotations on stdout, the result in the job's summary, and neither breaks out."""

import pytest

from fewshot_cli.cli.github import VARIABLE, publish
from fewshot_cli.runtime.render import Format

EXPECT = {"accuracy": 60.0, "tolerance": 1.0, "source": "a, b: 5 %\n::error::x"}


def result(**changes) -> dict:
    return {"recipe": "mine", "episodes": 600, "accuracy": 61.5, "ci95": 0.5, "not_converged": 0} | changes


@pytest.fixture
def summary_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv(VARIABLE, str(path))
    return path


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "notice", "over 600 episodes"),
        ({"expect": EXPECT, "passed": True}, "notice", "passed"),
        ({"expect": EXPECT, "passed": False}, "error", "missed"),
        ({"expect": None}, "warning", "not judged"),
    ],
)
def test_the_verdict_is_an_annotation_and_stands_in_the_summary(summary_file, changes, level, words):
    out = publish(result(**changes), "| a |\n| --- |")
    assert out.startswith(f"::{level} title=fsl eval%3A mine::accuracy 61.50 ± 0.50 %25 over 600 episodes")
    assert words in out and "\n" not in out
    text = summary_file.read_text()
    assert text.startswith("before\n### fsl eval: mine\n") and "**accuracy 61.50 ± 0.50 %" in text
    assert words in text and text.endswith("| a |\n| --- |\n\n")


def test_what_a_recipe_says_neither_ends_a_command_nor_begins_one(summary_file):
    out = publish(result(recipe="a,b::c\nd", expect=EXPECT, passed=False), "")
    assert "title=fsl eval%3A a%2Cb%3A%3Ac%0Ad::" in out
    assert "(a, b: 5 %25%0A::error::x)" in out and len(out.splitlines()) == 1
    hidden = publish(result(recipe="<img src=x>|[a](b)"), "")
    assert hidden and r"### fsl eval: \<img src=x\>\|\[a\](b)" in summary_file.read_text()


def test_a_solver_that_did_not_converge_is_a_warning_of_its_own(summary_file):
    first, second = publish(result(not_converged=7), "").splitlines()
    assert first.startswith("::notice ") and second.startswith("::warning ") and "7 problems" in second


def test_without_a_summary_file_the_summary_is_printed(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    out = publish(result(), "| a |")
    assert out.startswith("::notice ") and "### fsl eval: mine" in out and out.endswith("| a |\n")


def test_an_evaluation_publishes_its_tables(fsl, tiny, summary_file):
    words = ("--weights", "none", "--format", "github", "--per-class", "--confusion")
    code, out, err = fsl("eval", *tiny.words, *words)
    assert code == 0 and out.startswith("::notice ") and out.count("\n") == 1, err
    text = summary_file.read_text()
    assert "| class | accuracy % | queries |" in text and "| class | taken for |" in text


@pytest.mark.parametrize("words", [("eval", "--open-set", "1"), ("table", "deepemd.T1", "--dataset", "glyphs")])
def test_where_there_is_no_job_summary_it_is_refused(fsl, words):
    code, out, err = fsl(*words, "--format", Format.github)
    assert code == 2 and out == "" and "github" in err
