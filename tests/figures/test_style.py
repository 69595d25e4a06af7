"""The style's colours can be told apart by everybody and on paper; names and texts are brought into shape."""

import random
from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fewshot_cli.figures import style

# what dichromats see of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
WHITE = np.array([0.95047, 1, 1.08883])


def linear(colour):
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    xyz = to_xyz @ np.clip(rgb, 0, 1) / WHITE
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(colour):
    """With white, as WCAG 2 defines it."""
    return 1.05 / (linear(colour) @ [0.2126, 0.7152, 0.0722] + 0.05)


@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_colours_of_lines_differ_for_everybody(sight):
    seen = {colour: lab(SIGHT[sight] @ linear(colour)) for colour in style.PALETTE}
    for one, other in combinations(style.PALETTE, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 18, (sight, one, other)


def test_colours_stand_out_from_white():
    assert all(contrast(colour) >= 3 for colour in style.PALETTE)
    assert all(contrast(colour) >= 4.5 for colour in (style.RIGHT, style.WRONG, style.TRUTH, style.INK, style.MUTED))


def test_no_two_lines_of_a_figure_look_the_same():
    looks = [tuple(style.look(number).values()) for number in range(32)]
    assert len(set(looks)) == 32 and {colour for colour, _, _ in looks} == set(style.PALETTE)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("003.Sooty_Albatross", "Sooty Albatross"),
        ("n02085620-Chihuahua", "Chihuahua"),
        ("aquatic_mammals", "aquatic mammals"),
        ("001_accordion", "accordion"),
        ("3-series", "3-series"),
        ("7_eleven", "7 eleven"),
        ("Café crème", "Café crème"),
        ("17. éclair", "éclair"),
        ("n01532829", "n01532829"),
        ("0817", "0817"),
        ("2024-05-01", "2024-05-01"),
        ("_", "_"),
    ],
)
def test_names_lose_their_numbers_and_underscores(name, plain):
    assert style.plain(name) == plain


def test_names_that_would_become_the_same_stay():
    names = style.plain_names(["1.wren", "2.wren", "3.robin", "3.robin"])
    assert names == {"1.wren": "1.wren", "2.wren": "2.wren", "3.robin": "robin"}


@pytest.mark.parametrize("seed", range(40))
def test_wrapped_text_fits_and_loses_nothing_without_saying_so(seed):
    rng = random.Random(seed)
    words = ("".join(rng.choices("abcWMil.-éß漢$_^", k=rng.choice((1, 3, 9, 40)))) for _ in range(rng.randrange(9)))
    text, lines = rng.choice((" ", "  ")).join(words), rng.randint(1, 4)
    wrapped = style.wrap(text, 1.0, 8, lines)
    found = wrapped.splitlines()
    assert len(found) <= lines and all(style.width(line, 8) <= 1.0 for line in found)
    kept = "".join(wrapped.split())
    whole = "".join(text.split())
    assert kept == whole or (kept.endswith("…") and whole.startswith(kept[:-1]))


def test_text_is_cut_only_where_it_must_be():
    assert style.wrap("one two three", 9.0, 8) == "one two three"
    assert style.wrap("one two three", 0.5, 8, 9).splitlines() == ["one two", "three"]
    assert style.wrap("word " * 40, 1.0, 8, 2).endswith("…")
