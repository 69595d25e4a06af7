"""Answers class by class: `eval --per-class` and `--confusion`, and the records they are counted from."""

import csv
import io
import json

import pytest
from glyph_files import save

from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.records import checked
from fewshot_cli.evaluation.stats import share_ci95
from fewshot_cli.evaluation.tally import of_episodes, of_predictions, tally


def record(number: int, classes: list[str], predicted: list[int]) -> dict:
    each = len(predicted) // len(classes)
    correct = sum(answer == k // each for k, answer in enumerate(predicted))
    return {
        "episode": number,
        "classes": classes,
        "correct": correct,
        "queries": len(predicted),
        "accuracy": 100 * correct / len(predicted),
        "predicted": predicted,
        "problems": 0,
        "not_converged": 0,
    }


RECORDS = [
    record(0, ["cat", "ape"], [0, 0, 1, 1, 1, 0]),
    record(1, ["bee", "cat"], [0, 0, 0, 0, 1, 1]),
]


def test_answers_are_counted_by_name_and_only_among_the_classes_of_their_episode(tmp_path):
    got = of_episodes(checked(RECORDS, tmp_path), tmp_path)
    assert got.classes == ["ape", "bee", "cat"]
    assert got.counts.tolist() == [[2, 0, 1], [0, 3, 0], [1, 1, 4]]
    assert got.offered.tolist() == [[3, 0, 3], [0, 3, 3], [3, 3, 6]]
    ape, bee, cat = got.accuracies
    assert ape == {"class": "ape", "accuracy": pytest.approx(200 / 3), "ci95": None} | {
        "correct": 2,
        "queries": 3,
        "episodes": 1,
    }
    assert bee["accuracy"] == 100 and cat["accuracy"] == pytest.approx(200 / 3) and cat["ci95"] is None
    assert [(pair["class"], pair["predicted"], pair["count"], pair["offered"]) for pair in got.confused()] == [
        ("ape", "cat", 1, 3),
        ("cat", "ape", 1, 3),
        ("cat", "bee", 1, 3),
    ]


def test_images_may_be_of_any_class_and_have_wilsons_interval():
    lines = [{"picture": i, "class": "ab"[i > 2], "top": [given]} for i, given in enumerate("aabbc")]
    got = of_predictions(lines)
    assert got.classes == ["a", "b", "c"] and got.counts.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert got.offered.tolist() == [[3] * 3, [2] * 3, [0] * 3]
    assert [row["class"] for row in got.accuracies] == ["a", "b"]  # there is no image of c
    assert (got.accuracies[0]["accuracy"], got.accuracies[0]["ci95"]) == share_ci95(2, 3)


@pytest.mark.parametrize(
    ("predicted", "reason"),
    [
        ([0, 0, 1, 1, 1], "no answer for each of its 6 queries"),
        ([0, 0, 1, 1, 1, 2], "an answer that is none of its 2 classes"),
        ([0, 0, 0, 1, 1, 0], "says 4 correct, which its answers are not"),
        ("all", "no answer for each"),
    ],
)
def test_answers_that_cannot_be_are_refused(tmp_path, predicted, reason):
    with pytest.raises(DataError, match=reason):
        checked([RECORDS[0] | {"predicted": predicted}], tmp_path)


def test_records_of_an_earlier_version_are_read_but_have_no_answers(tmp_path):
    old = [{key: value for key, value in RECORDS[0].items() if key not in ("predicted", "problems")}]
    assert checked(old, tmp_path) == old
    with pytest.raises(DataError, match="earlier version, which kept no answers; evaluate again"):
        of_episodes(old, tmp_path)


@pytest.fixture
def evaluate(fsl, tiny):
    def run(*more: str):
        return fsl("eval", *tiny.words, "--weights", "none", "--run-dir", "run", "--resume", *more)

    return run


def test_every_format_says_the_same(evaluate, tmp_path):
    code, out, err = evaluate("--format", "json", "--per-class", "--confusion")
    assert code == 0, err
    result = json.loads(out)
    rows, matrix = result["per_class"], result["confusion"]
    assert sum(row["correct"] for row in rows) == sum(matrix["counts"][i][i] for i in range(5))
    assert sum(map(sum, matrix["counts"])) == sum(row["queries"] for row in rows) == 7 * 15
    mean = sum(row["accuracy"] for row in rows) / 5  # every episode holds all five classes
    assert mean == pytest.approx(result["accuracy"])
    assert result["problems"] == 7 * 15 * 5
    assert "per_class" not in json.loads((tmp_path / "run" / "summary.json").read_text())

    pairs = list(csv.DictReader(io.StringIO(evaluate("--format", "csv", "--confusion")[1])))
    assert {(p["class"], p["predicted"]): int(p["count"]) for p in pairs} == {
        (a, b): matrix["counts"][i][j] for i, a in enumerate(matrix["classes"]) for j, b in enumerate(matrix["classes"])
    }
    table = list(csv.DictReader(io.StringIO(evaluate("--format", "csv", "--per-class")[1])))
    assert [(row["class"], float(row["accuracy"])) for row in table] == [
        (row["class"], row["accuracy"]) for row in rows
    ]
    text, worst = evaluate("--per-class", "--confusion")[1], min(rows, key=lambda row: row["accuracy"])
    assert f"{worst['accuracy']:.2f} ± {worst['ci95']:.2f}" in text and "taken for" in text
    assert max(map(len, text[text.index("class ") :].splitlines())) <= 120
    assert "| class | taken for | queries | % |" in evaluate("--format", "md", "--confusion")[1]


@pytest.mark.parametrize(
    ("form", "flags", "reason"),
    [
        ("csv", ("--per-class", "--confusion"), "a CSV holds one"),
        ("junit", ("--per-class",), "no place for --per-class"),
    ],
)
def test_a_format_that_cannot_hold_them_is_refused_before_anything_is_done(evaluate, tmp_path, form, flags, reason):
    code, out, err = evaluate("--format", form, *flags)
    assert code == 2 and out == "" and reason in err and not (tmp_path / "run").exists()


def test_a_classifier_of_ones_own_is_tallied_too(fsl, tmp_path, glyph_root):
    save(glyph_root, tmp_path / "mine", range(3), slice(4))
    words = ("--recipe", "glyphs_5w1s", "--set", "head=sfc", "--data-root", glyph_root)
    assert fsl("finetune-sfc", *words, "--support", "mine", "--run-dir", "learned")[0] == 0
    classifier = ("--classifier", "learned/classifier.safetensors", "--query", "mine", "--run-dir", "scored")
    code, out, err = fsl("eval", *words, *classifier, "--per-class", "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    assert sum(row["correct"] for row in result["per_class"]) / result["pictures"] * 100 == pytest.approx(
        result["accuracy"]
    )
    assert len(tally(tmp_path / "scored").accuracies) == len(result["per_class"])
