"""`fsl init`: five answers become a recipe that `eval` and `classify` accept as it is."""

import io
import json
import re
import sys

import glyph_files
import pytest
from spoiled import images

from fewshot_cli.config import starter
from fewshot_cli.config.load import load_recipe


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self):
        return True


@pytest.fixture
def typed(fsl, monkeypatch):
    """Run the command line with these answers typed."""

    def run(answers, *words):
        monkeypatch.setattr(sys, "stdin", Terminal("\n".join([*answers, ""])))
        return fsl(*words)

    return run


def test_the_defaults_are_a_recipe_that_evaluates(fsl, tmp_path):
    code, out, err = fsl("init", "--yes")
    assert code == 0 and out == ""
    assert err == ("wrote mine.yaml: 1-shot classification of glyphs with conv64\nnext: fsl eval --recipe mine.yaml\n")
    text = (tmp_path / "mine.yaml").read_text()
    assert text.count("\n#") >= 8 and max(map(len, text.splitlines())) <= 120
    recipe = load_recipe("mine.yaml")
    assert (recipe.dataset.name, recipe.weights, recipe.eval.episodes) == ("glyphs", "glyphs_conv64", 600)
    code, out, err = fsl("eval", "--recipe", "mine.yaml", "--episodes", "2", "--format", "json")
    assert code == 0 and json.loads(out)["head"] == "emd", err


def test_a_file_is_replaced_with_force_only(fsl, tmp_path):
    (tmp_path / "mine.yaml").write_text("precious")
    code, _, err = fsl("init", "--yes")
    assert code == 2 and "mine.yaml: already exists" in err and "--force" in err
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert fsl("init", "--yes", "--force")[0] == 0 and load_recipe("mine.yaml")


def test_without_a_terminal_nothing_is_guessed(fsl, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("photos\n"))
    for words, option in (
        ((), "--photos or --dataset"),
        (("--dataset", "cub"), "--backbone"),
        (("--dataset", "cub", "--backbone", "conv64"), "--shots"),
        (("--dataset", "cub", "--backbone", "conv64", "--shots", "1"), "--gpu or --no-gpu"),
    ):
        code, out, err = fsl("init", *words)
        assert code == 2 and out == "" and f"give {option}, or --yes" in err
    assert list(tmp_path.iterdir()) == []
    code, _, err = fsl("init", "--dataset", "cub", "--backbone", "conv64", "--shots", "5", "--no-gpu")
    assert code == 0 and err.endswith("next: fsl prepare cub\n")
    assert load_recipe("mine.yaml").head.name == "sfc"


def test_questions_are_asked_until_they_are_answered(typed, tmp_path):
    images(tmp_path / "birds", list("abcdefghij"))
    answers = ["both", "photos", "nowhere", "birds", "conv65", "conv64", "0", "3", "perhaps", "y"]
    code, out, err = typed(answers, "init", "my/own.yaml")
    assert code == 0 and out.strip() == ""
    for sentence in (
        "both: answer photos or benchmark",
        "nowhere: no such file or folder",
        "conv65: no backbone with recipes for images (did you mean 'conv64'?); choose one of efficientnet_lite,",
        "0: shots are a number from 1 to 1000",
        "perhaps: answer yes or no",
        "to label photos at once: fsl classify PHOTOS --support birds --recipe my/own.yaml\n",
        "next: fsl prepare images --from birds --name birds\n",
    ):
        assert sentence in err
    assert err.count("1/5") == err.count("2/5") == err.count("4/5") == err.count("5/5") == 2
    recipe = load_recipe("my/own.yaml")
    assert (recipe.store, recipe.dataset.crop, recipe.weights) == ("birds", "raw", "cifar_fs_conv64")
    assert recipe.episode.model_dump() == {"way": 2, "shot": 3, "query": 5}  # two classes are for testing, of 8 images
    assert recipe.pretrain.precision == recipe.metatrain.precision == "bf16"


def test_a_choice_may_be_given_by_its_number(typed):
    code, _, err = typed(["benchmark", "2", "1", "", ""], "init")
    listed = re.search(r"Which benchmark\? (.*?) \[", err)[1].split(", ")
    assert code == 0 and [one.split()[0] for one in listed] == [str(i) for i in range(1, len(listed) + 1)]
    assert load_recipe("mine.yaml").dataset.name == listed[1].split()[1]


def test_an_interrupted_dialogue_says_that_nothing_was_written(typed, tmp_path):
    code, out, err = typed(["benchmark"], "init")
    assert code == 130 and "interrupted: no recipe was written" in err and list(tmp_path.iterdir()) == []


def test_enter_takes_the_default(typed):
    assert typed([""] * 5, "init")[0] == 0
    assert load_recipe("mine.yaml").dataset.name == "glyphs"


def test_a_recipe_for_own_photos_classifies_and_evaluates(fsl, glyph_root, tmp_path):
    glyph_files.save(glyph_root, tmp_path / "my photos", range(10), slice(4))
    glyph_files.save(glyph_root, tmp_path / "new", range(2), slice(4, 6))
    words = ("--backbone", "conv64", "--shots", "1", "--no-gpu")
    code, _, err = fsl("init", "--photos", "my photos", *words)
    assert code == 0 and "--name my-photos" in err
    code, out, err = fsl("classify", "new", "--support", "my photos", "--recipe", "mine.yaml", "--format", "json")
    assert code == 0 and len(json.loads(out)["pictures"]) == 4, err
    assert fsl("prepare", "images", "--from", "my photos", "--name", "my-photos")[0] == 0
    code, _, err = fsl("init", "again.yaml", "--photos", "my photos", *words)
    assert code == 0 and err.endswith("next: fsl eval --recipe again.yaml\n")
    code, out, err = fsl("eval", "--recipe", "again.yaml", "--episodes", "2", "--format", "json")
    assert code == 0 and (json.loads(out)["way"], json.loads(out)["query"]) == (2, 3), err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--photos", "a", "--dataset", "cub"), "give one of them"),
        (("--dataset", "cubs"), r"cubs: no benchmark (did you mean 'cub'?); choose one of cifar_fs, cub,"),
        (("--dataset", "images"), "images: no benchmark"),
        (("--dataset", "cifar100"), "cifar100: no benchmark"),  # its recipes have no episodes
        (("--dataset", "nabirds", "--backbone", "conv64"), "conv64: no backbone with recipes for nabirds"),
        (("--photos", "nowhere"), "nowhere: no such file or folder"),
    ],
)
def test_what_cannot_be_is_refused(fsl, tmp_path, words, sentence):
    code, out, err = fsl("init", "--yes", *words)
    assert code == 2 and out == "" and sentence in err and list(tmp_path.iterdir()) == []


def test_a_folder_with_one_class_is_refused(fsl, tmp_path):
    images(tmp_path / "photos", ["only"])
    code, _, err = fsl("init", "--yes", "--photos", "photos")
    assert code == 3 and "photos: holds one class only" in err and not (tmp_path / "mine.yaml").exists()


@pytest.mark.slow
def test_every_answer_gives_a_recipe(tmp_path):
    from fewshot_cli.config.load import parse_recipe

    for dataset in [*starter.benchmarks(), starter.IMAGES]:
        for backbone in starter.backbones(dataset):
            for shots, gpu in ((1, True), (3, False)):
                answers = starter.Answers(dataset, "mine", backbone, shots, gpu)
                recipe = parse_recipe(starter.written(answers, "mine.yaml"), tmp_path / "mine.yaml")
                assert (recipe.store, recipe.backbone.name, recipe.episode.shot) == ("mine", backbone, shots)
                base = starter.base_of(answers)
                assert recipe.backbone == base.backbone and recipe.head == base.head and recipe.weights == base.weights
                assert recipe.image == base.image
