"""`fsl recipe cat`, `cp` and `check`."""

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
    assert code == 0 and out == "" and err == "copied to mine/glyphs_5w1s.yaml\n"
    assert fsl("recipe", "check", "mine/glyphs_5w1s.yaml", "cub_5w5s") == (
        0,
        "",
        "mine/glyphs_5w1s.yaml: in order\ncub_5w5s: in order\n",
    )
