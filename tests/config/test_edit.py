"""`fsl recipe set`: the value changes, and nothing else in the file."""

import pytest

from fewshot_cli.config import edit
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.places import installed_recipes
from fewshot_cli.errors import RecipeError

MINE = """\
# My recipe, kept with care
dataset: {name: glyphs}   # the embedded one
image:
    size: 32              # their own size
    mean: [0.5, 0.5, 0.5]

# how images become maps
backbone: {name: conv64, last_pool: false}
head:   {name: emd, norm: "cosine"}
weights: glyphs_conv64
eval:
    episodes: 100
# the end
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


def changed(path, *texts):
    """The lines that a change took away and those it put there."""
    before = path.read_text().splitlines()
    changes, _ = edit.change(path, list(texts))
    after = path.read_text().splitlines()
    return [x for x in before if x not in after], [x for x in after if x not in before], changes


@pytest.mark.parametrize("name", sorted(installed_recipes()))
def test_setting_what_a_recipe_says_already_leaves_its_file_as_it_is(name):
    text = installed_recipes()[name].read_text()
    editor = edit._Editor(text, "mine.yaml")
    editor.set(("description",), editor._data["description"])
    assert editor.text() == text


HEAD = 'head:   {name: emd, norm: "cosine"}'


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("eval.episodes=7", "    episodes: 100", "    episodes: 7"),
        ("image.size=40", "    size: 32              # their own size", "    size: 40              # their own size"),
        ("head.norm=center", HEAD, 'head: {name: emd, norm: "center"}'),
        ("head=prototype", HEAD, "head: {name: prototype}"),
        ("head.name=prototype", HEAD, "head: {name: prototype}"),
        ("head.name=emd", HEAD, HEAD),
        ("seed=3", "# the end", "seed: 3\n# the end"),
        ("eval.split=val", "    episodes: 100", "    episodes: 100\n    split: val"),
        ("episode.shot=5", "# the end", "episode: {shot: 5}\n# the end"),
        ("solver=sinkhorn", "# the end", "solver: sinkhorn\n# the end"),
        ("metatrain.optimizer.lr=1e-3", "# the end", "metatrain: {optimizer: {lr: 0.001}}\n# the end"),
        ("weights=no", "weights: glyphs_conv64", "weights: no"),
        ("weights='7'", "weights: glyphs_conv64", "weights: '7'"),
    ],
)
def test_what_was_asked_for_changes_and_nothing_else(mine, text, old, new):
    edit.change(mine, [text])
    assert mine.read_text() == MINE.replace(old, new)


def test_a_part_by_its_name_alone_takes_options(mine):
    edit.change(mine, ["solver=sinkhorn"])
    edit.change(mine, ["solver.name=network_simplex", "solver.workers=1"])
    assert "solver: {name: network_simplex, workers: 1}\n" in mine.read_text()


def test_a_change_may_make_it_a_recipe_again(mine):
    mine.write_text(MINE.replace("norm:", "nrm:").replace("100", "many"))
    with pytest.raises(RecipeError, match="nrm: unknown key"):
        edit.change(mine, ["eval.episodes=100"])
    edit.change(mine, ["head=emd", "eval.episodes=100"])
    assert load_recipe(str(mine)).eval.episodes == 100


def test_a_new_key_stands_before_the_comments_that_follow(mine):
    edit.change(mine, ["eval.split=val", "image.resize=36"])
    lines = mine.read_text().splitlines()
    assert lines[-3:] == ["    episodes: 100", "    split: val", "# the end"]
    at = lines.index("    resize: 36")
    assert lines[at - 1] == "    mean: [0.5, 0.5, 0.5]" and lines[at + 1 : at + 3] == ["", "# how images become maps"]


def test_changes_are_told_with_what_was_before(mine):
    assert changed(mine, "head.temperature=3", "episode.shot=1")[2] == [
        edit.Change("head.temperature", 12.5, 3.0),
        edit.Change("episode.shot", 1, 1),
    ]
    assert changed(mine, "head=prototype")[2] == [edit.Change("head", "emd", "prototype")]


def test_a_backbone_that_brings_weights_comes_without_those_of_another(mine):
    _, _, changes = changed(mine, "backbone=efficientnet_lite")
    recipe = load_recipe(str(mine))
    assert recipe.weights == "own" and recipe.image.size != 32
    assert edit.Change("weights", "glyphs_conv64", "own") in changes
    assert "image.size" in {one.key for one in changes}


def test_weights_that_are_given_with_a_backbone_stay(mine):
    changed(mine, "weights=none", "backbone=efficientnet_lite")
    assert load_recipe(str(mine)).weights == "none"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("head.norm=x", r"mine.yaml:\d+: head.norm: .*\(with head.norm=x; the file is as it was\)"),
        ("heads=emd", r"heads: unknown key \(did you mean 'head'\?\)"),
        ("seed.inner=1", "the file is as it was|has no keys inside"),
        ("weights.inner=1", "weights.inner: weights has no keys inside"),
        ("seed", "write it as key=value"),
    ],
)
def test_what_would_be_no_recipe_is_refused_and_the_file_stays(mine, text, sentence):
    with pytest.raises(RecipeError, match=sentence):
        edit.change(mine, [text])
    assert mine.read_text() == MINE and [p.name for p in mine.parent.iterdir()] == ["mine.yaml"]


def test_line_ends_and_links_stay(mine):
    mine.write_bytes(MINE.replace("\n", "\r\n").encode())
    link = mine.with_name("link.yaml")
    link.symlink_to(mine)
    edit.change(link, ["eval.episodes=8"])
    assert link.is_symlink() and mine.read_bytes().count(b"\r\n") == MINE.count("\n") == mine.read_bytes().count(b"\n")


def test_an_installed_recipe_is_not_changed(tmp_path):
    for name in ("glyphs_5w1s", str(installed_recipes()["glyphs_5w1s"])):
        with pytest.raises(
            RecipeError, match="glyphs_5w1s: is an installed recipe.*fsl recipe cp glyphs_5w1s mine.yaml"
        ):
            edit.own_file(name)


def test_what_is_no_plain_yaml_is_named_by_its_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: glyphs_5w1s\nhead: &h emd\n")
    with pytest.raises(RecipeError, match=r"mine.yaml:2: anchors and aliases are not allowed"):
        edit.change(path, ["episode.shot=5"])
