"""One's own images from Python."""

import pytest

import fewshot_cli
from fewshot_cli import DataError


def test_images_are_labelled_by_examples(folder_of_glyphs):
    labels = fewshot_cli.classify(
        folder_of_glyphs / "support", folder_of_glyphs / "support", recipe="glyphs_5w1s", data_root=folder_of_glyphs
    )
    assert [one.label for one in labels] == ["class0", "class1", "class2", "class3"]
    assert all(one.probability is None and max(one.scores.values()) == one.score for one in labels)
    frame = labels.to_pandas()
    assert list(frame.label) == [one.label for one in labels] and "class2" in frame
    assert labels._repr_html_().count("<tr>") == 5


def test_two_images_match_as_their_figure_shows(folder_of_glyphs, tmp_path):
    one, other = (folder_of_glyphs / "support" / f"class{i}" / "0.png" for i in (0, 1))
    match = fewshot_cli.match(one, other, recipe="glyphs_5w1s", data_root=folder_of_glyphs)
    same = fewshot_cli.match(one, one, recipe="glyphs_5w1s", data_root=folder_of_glyphs)
    assert same.similarity == pytest.approx(1, abs=1e-4) and match.similarity < same.similarity
    assert match.flow.sum(1).allclose(match.supply, atol=1e-4) and len(match.places) == len(match.supply)
    figure = match.figure(flows=True)
    assert sum((artist.get_gid() or "").startswith("flow-") for artist in figure.artists + figure.patches) == int(
        (match.flow > 0).sum()
    )
    match.save(tmp_path / "m.svg")
    assert (tmp_path / "m.svg").read_text().startswith("<?xml")
    with pytest.raises(DataError, match=r"nothing\.png"):
        fewshot_cli.match(one, "nothing.png", recipe="glyphs_5w1s")
