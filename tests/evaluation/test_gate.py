"""The gate of `--check`: an accuracy passes down to the expected one less the tolerance, and no further."""

import json
import math
import re
from pathlib import Path

import pytest

from fewshot_cli.config.load import load_recipe
from fewshot_cli.evaluation import classification, episodes
from fewshot_cli.evaluation.check import Check, changes, judge, write_expect

UNBOUND = {"weights": None, "two_sided": False}
DATA = "0123456789abcdef" * 4
OTHER = "f" * 64
PROTOCOLS = {
    "episodes": {"head": "emd", "way": 5, "shot": 1, "query": 15, "episodes": 600},
    "classification": {"protocol": "classification", "classifier": "linear", "top5": 90.0, "pictures": 600},
}


def expecting(tmp_path, protocol, accuracy=60.0, tolerance=2.0):
    """A recipe of one protocol that expects something."""
    path = tmp_path / "gate.yaml"
    path.write_text(
        f"base: glyphs_5w1s\neval: {{protocol: {protocol}}}\n"
        f"expect: {{accuracy: {accuracy}, tolerance: {tolerance}, source: a test}}\n"
    )
    return load_recipe(str(path))


def summary(protocol, accuracy):
    """What an evaluation reports, as far as the gate and the report read it."""
    return {
        **PROTOCOLS[protocol],
        "recipe": "gate",
        "dataset": "glyphs",
        "solver": None,
        "classes": 20,
        "accuracy": accuracy,
        "ci95": 0.5,
        "interval": "none",
        "seed": 1,
        "weights": "none",
        "not_converged": 0,
        "seconds": {"total": 1.0},
        "hashes": {"weights": "0" * 64, "data": DATA},
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("accuracy", "passed"),
    [
        (58.0, True),
        (math.nextafter(58.0, 100), True),
        (math.nextafter(58.0, 0), False),
        (58.01, True),
        (57.99, False),
        (60.0, True),
        (61.9, True),
        (75.0, True),  # better than expected passes too
        (0.0, False),
    ],
)
def test_an_accuracy_passes_down_to_the_tolerance(tmp_path, protocol, accuracy, passed):
    judged = judge(summary(protocol, accuracy), expecting(tmp_path, protocol))
    assert judged["passed"] is passed
    assert judged["expect"] == {"accuracy": 60.0, "tolerance": 2.0, "source": "a test", "data": None} | UNBOUND
    assert judged["accuracy"] == accuracy


@pytest.mark.parametrize(("tolerance", "passed"), [(0.5, False), (1.5, True)])
def test_the_tolerance_decides(tmp_path, tolerance, passed):
    assert judge(summary("episodes", 59.0), expecting(tmp_path, "episodes", 60.0, tolerance))["passed"] is passed


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("accuracy", "code"), [(58.01, 0), (57.99, 1)])
def test_the_command_exits_by_the_tolerance(fsl, tmp_path, monkeypatch, protocol, accuracy, code):
    loaded = expecting(tmp_path, protocol)

    def measured(*_):
        return judge(summary(protocol, accuracy), loaded)

    monkeypatch.setattr(episodes, "evaluate_episodes", measured)
    monkeypatch.setattr(classification, "evaluate_classes", measured)
    words = ("--recipe", tmp_path / "gate.yaml", "--check", "--format", "json", "--device", "cpu")
    got, out, err = fsl("eval", *words)
    assert got == code, err
    assert json.loads(out)["passed"] is (code == 0)
    assert ("is below 60.0 ± 2.0" in err) is (code == 1)


def expecting_of(tmp_path, *entries):
    """A recipe with entries (accuracy, data) of what it expects."""
    listed = "\n".join(
        f"  - {{accuracy: {accuracy}, tolerance: 1, source: s, data: {repr(data) if data else 'null'}}}"
        for accuracy, data in entries
    )
    (tmp_path / "gate.yaml").write_text(f"base: glyphs_5w1s\nexpect:\n{listed}\n")
    return load_recipe(str(tmp_path / "gate.yaml"))


@pytest.mark.parametrize(
    ("entries", "judged"),
    [
        ([(60, DATA)], 60),
        ([(60, DATA[:8])], 60),
        ([(70, OTHER), (60, DATA[:16])], 60),
        ([(70, None), (60, DATA)], 60),  # the one that names the data comes first
        ([(70, OTHER), (60, None)], 60),
        ([(70, OTHER)], None),
        ([(70, OTHER), (80, "abcdef01")], None),
    ],
)
def test_the_entry_for_the_data_is_what_counts(tmp_path, entries, judged):
    recipe = expecting_of(tmp_path, *entries)
    result = judge(summary("episodes", 60.0), recipe)
    assert (result["expect"] and result["expect"]["accuracy"]) == judged and ("passed" in result) is bool(judged)
    forced = judge(summary("episodes", 60.0), recipe, Check.ANY)
    assert forced["expect"]["accuracy"] == (judged or entries[0][0]) and forced["passed"] is bool(judged)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("expect: {accuracy: 60, tolerance: 1}", r"gate.yaml:2: expect.source: is missing"),
        ("expect: {accuracy: 60, tolerance: 1, source: s, data: xyz}", r"gate.yaml:2: expect.data: .*pattern"),
        ("expect:\n  accuracy: 60\n  tolerence: 1\n  source: s", r"gate.yaml:4: expect.tolerence: unknown key"),
        ("expect:\n- {accuracy: 60, tolerance: 1, source: s}\n- {accuracy: 600}", r"gate.yaml:\d: expect.1.accuracy"),
    ],
)
def test_a_wrong_expectation_is_refused_at_its_place(fsl, tmp_path, text, sentence):
    (tmp_path / "gate.yaml").write_text(f"base: glyphs_5w1s\n{text}\n")
    code, _, err = fsl("recipe", "check", tmp_path / "gate.yaml")
    assert code == 2 and re.search(sentence, err), err


def test_other_data_is_not_judged_unless_all_is(fsl, tiny, pretrained, tmp_path):
    weights = ("--weights", pretrained / "weights.safetensors", "--data-root", tiny.root)
    for data, words, wanted in (
        (OTHER, ("--check",), 5),
        (OTHER, ("--check=any",), 1),
        (None, ("--check",), 1),
    ):
        line = f", data: {data}" if data else ""
        Path("gate.yaml").write_text(
            f"base: {tiny.recipe}\nexpect: {{accuracy: 99.9, tolerance: 0.05, source: s{line}}}\n"
        )
        code, out, err = fsl("eval", "--recipe", "gate.yaml", *weights, *words, "--format", "json")
        assert code == wanted, err
        result = json.loads(out)
        assert ("passed" in result) is (wanted == 1) and ("expects nothing on this data" in err) is (wanted == 5)
    code, _, err = fsl("eval", "--recipe", "gate.yaml", *weights, "--check=all")
    assert code == 2 and "--check all: give measured or any" in err


def test_a_run_writes_the_recipe_that_expects_it(fsl, tiny, pretrained, tmp_path):
    weights = ("--weights", pretrained / "weights.safetensors", "--data-root", tiny.root)
    words = ("--set", "head=knn", "--set", "head.k=2", "--episodes", "9", "--seed", "5")
    Path("ci").mkdir()
    run = ("eval", "--recipe", tiny.recipe, *weights, *words, "--write-expect", "ci/mine.yaml", "--format", "json")
    code, out, err = fsl(*run)
    assert code == 0, err
    result, written = json.loads(out), load_recipe("ci/mine.yaml")
    assert (written.head.name, written.head.options.k, written.eval.episodes, written.seed) == ("knn", 2, 9, 5)
    (entry,) = written.expect
    assert entry.accuracy == round(result["accuracy"], 2)
    assert {"data": entry.data, "weights": entry.weights} == result["hashes"]
    assert abs(entry.tolerance - result["ci95"] / 2) <= 0.051
    code, out, err = fsl("eval", "--recipe", "ci/mine.yaml", *weights, "--check", "--format", "json")
    assert code == 0 and json.loads(out)["accuracy"] == result["accuracy"], err
    code, _, err = fsl(*run)
    assert code == 2 and "--write-expect ci/mine.yaml: already exists" in err


def test_a_tolerance_is_never_too_narrow_for_rounding(tmp_path):
    write_expect(tmp_path / "e.yaml", load_recipe("glyphs_5w1s"), "glyphs_5w1s", {}, summary("episodes", 71.234))
    (entry,) = load_recipe(str(tmp_path / "e.yaml")).expect
    assert (entry.accuracy, entry.tolerance) == (71.23, 0.2)
    narrow = {**summary("episodes", 71.234), "ci95": 0.01}
    write_expect(tmp_path / "n.yaml", load_recipe("glyphs_5w1s"), "glyphs_5w1s", {}, narrow)
    assert load_recipe(str(tmp_path / "n.yaml")).expect[0].tolerance == 0.1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "episode.shot=50"], r"episode\.shot is 50, not 1, so this is not what gate expects"),
        (["--set", "episode.way=2"], r"episode\.way is 2, not 5"),
        (["--set", "eval.split=train"], r"eval\.split is train, not test"),
        (["--episodes", "5"], r"eval\.episodes is 5, not 600"),
        (["--seed", "9"], r"seed is 9, not 1"),
        (["--set", "head=knn"], r"head is knn, not emd"),
        (["--set", "head.temperature=3"], r"head\.temperature is 3\.0, not 12\.5"),
        (["--set", "extractor=grid"], r"extractor is grid, not fcn"),
        (["--set", "image.size=24", "--set", "image.resize=24"], r"image\.resize is 24, not None \(and 1 more\)"),
        (["--set", "weights=other"], r"weights is other, not glyphs_conv64"),
        (["--dataset", "omniglot"], r"dataset is omniglot, not glyphs"),
    ],
)
def test_another_task_is_not_what_the_recipe_expects(fsl, tmp_path, words, sentence):
    expecting(tmp_path, "episodes")
    code, _, err = fsl("eval", "--recipe", tmp_path / "gate.yaml", "--check", *words)
    assert code == 2 and re.search(sentence, " ".join(err.split())), err


def test_the_solver_and_training_change_no_task(tmp_path):
    plain = expecting(tmp_path, "episodes")
    sets = ["solver=pot", "pretrain.epochs=3", "metatrain.steps=2", "eval.episodes=600"]
    assert changes(load_recipe(str(tmp_path / "gate.yaml"), sets), plain, Check.MEASURED) == []
    other = load_recipe(str(tmp_path / "gate.yaml"), ["dataset.name=omniglot"])
    assert changes(other, plain, Check.ANY) == [] and len(changes(other, plain, Check.MEASURED)) == 1


@pytest.mark.parametrize(("weights", "judged"), [("0" * 16, True), ("0123abcd", False), (None, True)])
def test_other_weights_are_not_judged(tmp_path, weights, judged):
    (tmp_path / "gate.yaml").write_text(
        f"base: glyphs_5w1s\nexpect: {{accuracy: 60, tolerance: 1, source: s, weights: {weights!r}}}\n".replace(
            "None", "null"
        )
    )
    assert ("passed" in judge(summary("episodes", 60.0), load_recipe(str(tmp_path / "gate.yaml")))) is judged


@pytest.mark.parametrize(("accuracy", "passed"), [(58.9, False), (59.0, True), (61.0, True), (61.1, False)])
def test_a_two_sided_gate_misses_what_is_too_good(fsl, tmp_path, monkeypatch, accuracy, passed):
    (tmp_path / "gate.yaml").write_text(
        "base: glyphs_5w1s\nexpect: {accuracy: 60, tolerance: 1, source: s, two_sided: true}\n"
    )
    loaded = load_recipe(str(tmp_path / "gate.yaml"))
    assert judge(summary("episodes", accuracy), loaded)["passed"] is passed
    monkeypatch.setattr(episodes, "evaluate_episodes", lambda *_: judge(summary("episodes", accuracy), loaded))
    code, _, err = fsl("eval", "--recipe", tmp_path / "gate.yaml", "--check", "--device", "cpu")
    assert code == (0 if passed else 1) and (f"is {'above' if accuracy > 60 else 'below'} 60.0 ± 1.0" in err) != passed


@pytest.mark.parametrize("form", ["table", "csv", "md", "junit", "json"])
def test_problems_without_convergence_are_told_in_every_format(fsl, tmp_path, monkeypatch, form):
    monkeypatch.setattr(episodes, "evaluate_episodes", lambda *_: {**summary("episodes", 60.0), "not_converged": 7})
    code, out, err = fsl("eval", "--format", form, "--device", "cpu")
    assert code == 0 and "did not converge on 7 problems" in err
    assert {"csv": "not converged", "md": "not converged", "json": '"not_converged": 7'}.get(
        form, "converge on 7"
    ) in out
