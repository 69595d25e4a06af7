"""`fsl recipe cat`, `cp`, `set` and `check`."""

import pytest

from fewshot_cli.config.load import find_recipe


def test_recipe_cat_and_cp(fsl, tmp_path):
    code, out, _ = fsl("recipe", "cat", "glyphs_5w1s")
    assert code == 0 and out == find_recipe("glyphs_5w1s").read_text()
    assert fsl("recipe", "cp", "glyphs_5w1s", tmp_path / "mine.yaml")[0] == 0
    assert (tmp_path / "mine.yaml").read_text() == out
    code, _, err = fsl("recipe", "cp", "glyphs_5w1s", tmp_path / "mine.yaml")
    assert code == 2 and "already exists" in err


def test_a_recipe_is_copied_into_a_folder_under_its_name(fsl, tmp_path):
    (tmp_path / "mine").mkdir()
    code, out, err = fsl("recipe", "cp", "glyphs_5w1s", "mine")
    assert (
        code == 0
        and out == ""
        and err == ("copied to mine/glyphs_5w1s.yaml\nnext: fsl recipe set episode.shot=5 mine/glyphs_5w1s.yaml\n")
    )
    assert fsl("recipe", "check", "mine/glyphs_5w1s.yaml", "cub_5w5s") == (
        0,
        "",
        "mine/glyphs_5w1s.yaml: in order\ncub_5w5s: in order\n",
    )


def test_keys_are_set_and_told(fsl, tmp_path):
    fsl("recipe", "cp", "glyphs_5w1s", "mine.yaml")
    code, out, err = fsl("recipe", "set", "head=prototype", "mine.yaml", "eval.episodes=2", "seed=1")
    assert (
        code == 0
        and out == ""
        and err
        == (
            "mine.yaml: head is prototype, was emd\n"
            "mine.yaml: eval.episodes is 2, was 600\n"
            "mine.yaml: seed is 1 as before\n"
            "note: the accuracy that mine.yaml expects was measured before this change; "
            "fsl eval --recipe mine.yaml --write-expect NEW.yaml measures it anew\n"
            "next: fsl eval --recipe mine.yaml\n"
        )
    )
    before = find_recipe("glyphs_5w1s").read_text().splitlines()
    changed = [line for line in (tmp_path / "mine.yaml").read_text().splitlines() if line not in before]
    assert changed == ["head: {name: prototype}", "eval: {episodes: 2}", "seed: 1"]
    assert "note:" not in fsl("recipe", "set", "seed=1", "mine.yaml")[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("seed=3",), "was given no file; write KEY=VALUE and one recipe file"),
        (("mine.yaml",), "was given nothing to change"),
        (("seed=3", "a.yaml", "b.yaml"), "was given several files (a.yaml, b.yaml)"),
        (("seed=3", "glyphs_5w1s"), "glyphs_5w1s: is an installed recipe, which an update replaces; copy it first"),
        (("seed=3", "nothing.yaml"), "nothing.yaml: no such recipe"),
        (("seed=-1", "mine.yaml"), "seed: "),
    ],
)
def test_what_cannot_be_set_is_refused(fsl, words, sentence):
    fsl("recipe", "cp", "glyphs_5w1s", "mine.yaml")
    code, out, err = fsl("recipe", "set", *words)
    assert code == 2 and out == "" and sentence in err
    assert find_recipe("mine.yaml").read_text() == find_recipe("glyphs_5w1s").read_text()
