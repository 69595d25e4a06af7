"""What verbs say beside their results: the first sentence, what continues after an interruption, old spellings."""

import json
import re

import pytest
from PIL import Image

from fewshot_cli.cli import app, counted, match, profile
from fewshot_cli.errors import Exit
from fewshot_cli.evaluation import episodes
from fewshot_cli.evaluation.sentences import sentence
from fewshot_cli.runtime import runs
from fewshot_cli.runtime.runs import CONFIG


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A run that has begun, whose folder `--resume` continues."""
    monkeypatch.setattr(runs, "_resumable", [])
    path = runs.choose(tmp_path / "my run", "eval", "glyphs_5w1s", False)
    path.mkdir()
    (path / CONFIG).write_text("{}")
    return path


def test_an_interruption_names_the_command_that_continues(begun):
    said = app.interrupted(["eval", "glyphs_5w1s", "--set", "head={name: emd}"])
    assert said == (
        "fsl: interrupted; what is done is kept; to continue: "
        f"fsl eval glyphs_5w1s --set 'head={{name: emd}}' --resume --run-dir '{begun}'"
    )


@pytest.mark.parametrize("named", [["--run-dir", "r"], ["--run-dir=r"]])
def test_what_the_command_has_is_not_added_again(begun, named):
    said = app.interrupted(["eval", *named, "--resume"])
    assert said.endswith(f"to continue: fsl eval {' '.join(named)} --resume")
    assert app.interrupted(["eval", *named]).endswith(f"to continue: fsl eval {' '.join(named)} --resume")


def test_an_interruption_before_or_without_a_run(monkeypatch):
    monkeypatch.setattr(runs, "_resumable", [])
    assert app.interrupted(["eval", "x y"]) == "fsl: interrupted; to begin again: fsl eval 'x y'"
    assert app.interrupted(["reproduce", "cub"]).endswith("the same command continues: fsl reproduce cub")


def test_batches_grow_while_they_are_quick():
    assert episodes.next_size(1, 0.01, 64) == 4 and episodes.next_size(16, 0.01, 64) == 64
    assert episodes.next_size(8, 2.0, 64) == 4 and episodes.next_size(1, 30.0, 64) == 1
    assert episodes.next_size(4, 0.5, 64) == 8 and episodes.next_size(1, 0.0, 3) == 3


SUMMARY = {"recipe": "mine", "accuracy": 68.734, "ci95": 0.77, "episodes": 600, "way": 5, "shot": 1}


def test_an_evaluation_is_a_sentence():
    assert sentence(SUMMARY) == "mine: 68.73 ± 0.77 % over 600 episodes, 5-way 1-shot"
    assert sentence({**SUMMARY, "ci95": None, "episodes": 1}) == "mine: 68.73 % over 1 episode, 5-way 1-shot"


def test_an_interval_that_is_not_symmetric_is_printed_by_its_ends():
    images = {"recipe": "mine", "accuracy": 100.0, "ci95": 20.39, "pictures": 15, "classes": 3}
    assert sentence(images) == "mine: 100.00 (79.61 to 100.00) % of 15 images, 3 classes"


ROW = {"scores": {}, "score": 0.9}


def labelled(*pairs):
    return {
        "pictures": [{"picture": name, "label": label} for name, label in pairs],
        "support": {"robin": 2, "wren": 2},
    }


def test_labels_are_counted_and_compared_with_folders_that_name_the_truth():
    result = labelled(("a/robin/1.jpg", "robin"), ("a/robin/2.jpg", "wren"), ("a/wren/1.jpg", "wren"))
    assert counted.sentence(result) == "3 images, 2 labelled like their folders: 66.67 (20.77 to 93.85) %"
    assert counted.told(result)[0].splitlines() == [
        "labels: wren 2, robin 1",
        "right: robin 1 of 2, wren 1 of 1",
        "confused: robin taken for wren 1",
    ]


def test_folders_of_other_names_say_nothing_of_the_truth():
    result = labelled(("a/robin/1.jpg", "robin"), ("a/unsorted/2.jpg", None))
    assert counted.sentence(result) == "2 images, 1 labelled with 1 of 2 classes"
    assert counted.told(result) == ["labels: robin 1, none of these 1"]


def test_a_match_is_a_sentence():
    pair = [{"left": "a.png", "right": "b.png", "similarity": 0.31489, "not_converged": 0}]
    assert match._sentence(pair) == "a.png and b.png: similarity 0.3149"
    classes = [{"class": "x", "true": False, "similarity": 0.4}, {"class": "y", "true": True, "similarity": 0.3}]
    assert match._sentence(classes) == "the query is most like x (similarity 0.4000), not its class, y"
    distances = [
        {"class": "x", "true": True, "distance": {"start": 9.0, "end": 1.5}},
        {"class": "y", "true": False, "distance": {"start": 2.0, "end": 3.5}},
    ]
    assert match._sentence(distances).startswith("the query is most like x (distance 9 (start) → 1.5 (end)), its class")
    assert match._sentence([{"class": "x", "probability": 0.5}]).startswith("x: 50.0 %")


def test_the_fastest_solver_is_named():
    records = [
        {"solver": "a", "n": 9, "m": 9, "problems_per_second": 9e6},
        {"solver": "a", "n": 25, "m": 25, "problems_per_second": 3e5},
        {"solver": "b", "n": 25, "m": 25, "problems_per_second": 6e5},
        {"solver": "c", "n": 25, "m": 25, "skipped": "slow"},
    ]
    assert profile._fastest(records) == "fastest at 25×25: b, 600,000 problems/s, 2 times a"


@pytest.fixture
def compared(fsl, tmp_path):
    """Two runs of the same two episodes."""
    for name, values in (("a", (60.0, 80.0)), ("b", (50.0, 60.0))):
        (tmp_path / "runs" / name).mkdir(parents=True)
        lines = [
            {"episode": i, "classes": ["x", "y"], "correct": round(v / 10), "queries": 10, "accuracy": v}
            for i, v in enumerate(values)
        ]
        text = "".join(json.dumps({**line, "not_converged": 0}) + "\n" for line in lines)
        (tmp_path / "runs" / name / "episodes.jsonl").write_text(text)
    return lambda *more: fsl("compare", "runs/a", "runs/b", *more)


def test_a_comparison_is_an_equation_and_has_formats(compared):
    code, out, err = compared()
    assert code == 0, err
    assert out.splitlines()[0] == "a 70.00 − b 55.00 = +15.00 ± 63.53 over 2 paired episodes"
    result = json.loads(compared("--format", "json")[1])
    assert list(result) == ["episodes", "first", "second", "difference"] and result["difference"]["accuracy"] == 15
    assert compared("--format", "csv")[1].splitlines()[0].startswith("first,second,episodes,first accuracy")
    assert "| difference | +15.00 ± 63.53 |" in compared("--format", "md")[1]


def test_old_spellings_are_understood_and_told(fsl, tmp_path):
    code, _, err = fsl("eval", "--open-set", "99", "--run-dir", "r")
    assert code == Exit.USAGE and "note: --open-set is an old spelling, which still works; write fsl open-set" in err
    code, _, err = fsl("eval", "glyphs_5w1s", "--classifier", "c.safetensors", "--query", "q")
    assert "write fsl classify q --classifier c.safetensors -r glyphs_5w1s" in err and code != 0


def test_names_of_another_kind_are_recognised(fsl, tmp_path):
    for words, said in [
        (("show", "solver", "emd"), r"emd: is a head, not a solver; write `fsl show head emd`"),
        (("eval", "emd"), r"emd: no such recipe \(emd is a head\)"),
        (("eval", "glyphs_conv64"), r"\(glyphs_conv64 is the name of weights\)"),
        (("eval", "--weights", "glyphs_5w1s"), r"no such weights \(glyphs_5w1s is a recipe\)"),
        (("glyphs_5w1s",), r"glyphs_5w1s is a recipe; fsl eval glyphs_5w1s evaluates it"),
        (("table", "T2"), r"T2: of which paper\? Give deepemd\.T2 \(.*\); lsc\.T2 \(.*\); mpw\.T2 \("),
    ]:
        code, out, err = fsl(*words)
        assert code in (Exit.USAGE, Exit.DATA) and out == "" and re.search(said, err), err


@pytest.mark.parametrize("suffix", [".png", ".pth", ".safetensors"])
def test_an_image_given_as_weights_is_called_one(fsl, tmp_path, suffix):
    Image.new("RGB", (4, 4)).save(tmp_path / "w.png")
    path = (tmp_path / "w.png").rename(tmp_path / f"w{suffix}")
    code, out, err = fsl("weights", "show", path)
    assert (
        code == Exit.DATA
        and out == ""
        and err
        == (f"fsl: {path}: is a PNG image; give weights, a .safetensors or .pth, or a name of `fsl weights list`\n")
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("calibrate",), "calibrate needs --support FOLDER: folder or archive of labelled examples, stored as "),
        (("recipe", "cp", "glyphs_5w1s"), "recipe cp needs TARGET: file or folder to copy it to; for example, fsl "),
        (("eval", "--strict=3"), "--strict takes no value; write --strict alone"),
        (("eval", "a", "b"), "eval has no use for b; write fsl eval [RECIPE] [OPTIONS]"),
        (("gallery", "ad"), "gallery has no verb ad (did you mean 'add'?); fsl gallery --help shows all"),
        (("eval", "--resum"), "eval has no option --resum (did you mean --resume?); fsl eval --help-all shows all"),
        (("open-set", "--reject", "2"), "--reject 2: give a number from 0.001 to 0.9"),
        (("match", "--episode", "-1", "-o", "x"), "--episode -1: give a whole number of at least 0"),
        (("eval", "--set"), "--set needs a value"),
    ],
    ids=" ".join,
)
def test_usage_errors_are_one_sentence_of_ours(fsl, words, said):
    code, out, err = fsl(*words)
    assert code == Exit.USAGE and out == "" and err.startswith(f"fsl: {said}") and err.count("\n") == 1
    assert not re.search(r"Usage:|Error|Invalid|Missing|[Ii]nput should|Errno", err)
