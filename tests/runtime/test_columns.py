"""Tables in a terminal: what fits is shown whole, text is folded, columns are left out by need, numbers stay whole."""

import re

import pytest

from fewshot_cli.runtime import columns
from fewshot_cli.runtime.columns import fold, grid
from fewshot_cli.runtime.render import Block, Format, tables

HEADER = ["solver", "n×m", "problems/s", "with gradient", "peak MB", "what it is for"]
ROWS = [
    ["network_simplex", "25×25", "225,000", "68.73 ± 0.77", "12.1", "exact, and the default wherever costs are real"],
    ["sinkhorn", "100×100", "1,234,567", "+1.02 ± 0.11", "1.5", "approximate"],
]
NUMBERS = [cell for row in ROWS for cell in row[1:5]]
LEAST = ["peak MB", "with gradient"]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_table_fits_the_terminal_and_no_number_is_broken(width):
    text = grid(HEADER, ROWS, width, LEAST)
    assert max(map(len, text.splitlines())) <= width
    shown = [number for number in NUMBERS if number in text]
    assert all(number in shown for number in ("225,000", "1,234,567", "25×25", "100×100") if width > 40)
    pieces = set(re.findall(r"[\d.,+×]*\d", text))
    whole = {piece for number in NUMBERS for piece in re.findall(r"[\d.,+×]*\d", number)}
    assert pieces <= whole


def test_a_wide_terminal_and_a_file_get_every_column():
    for width in (200, None):
        text = grid(HEADER, ROWS, width, LEAST)
        assert all(cell in text for row in (HEADER, *ROWS) for cell in row) and "not shown" not in text
        assert len(text.splitlines()) == 2 + len(ROWS)


def test_text_is_folded_before_columns_are_left_out():
    text = grid(HEADER, ROWS, 80, LEAST)
    assert "not shown" not in text and "wherever costs are real" not in text
    assert all(word in text for word in ROWS[0][-1].split())


def test_the_least_needed_columns_go_first_and_are_told():
    text = grid(HEADER, ROWS, 72, LEAST)
    assert "not shown: peak MB" in " ".join(text.split()) and "--wide shows all columns" in " ".join(text.split())
    assert "12.1" not in text and "225,000" in text
    text = " ".join(grid(HEADER, ROWS, 45, LEAST).split())
    assert "not shown: with gradient, peak MB" in text


def test_without_a_word_columns_go_from_the_right_and_the_first_stays():
    rows = [["a", *["123456789"] * 5]]
    text = grid(["first", "b", "c", "d", "e", "f"], rows, 40)
    assert text.splitlines()[0].split() == ["first", "b", "c", "d"] and "not shown: e, f" in text
    assert grid(["first", "b"], [["123456789", "123456789"]], 12).splitlines()[0].split() == ["first"]


def test_wide_characters_count_as_two_columns():
    lines = grid(["name", "n"], [["寿司", "1"], ["abcd", "2"]]).splitlines()
    assert lines[2] == " 寿司  1" and lines[3] == " abcd  2"


def test_a_long_word_is_broken_but_a_number_never():
    assert fold("a/very/long/path/to/it", 10) == ["a/very/lon", "g/path/to/", "it"]
    assert fold("the 1234567890123", 5) == ["the", "1234567890123"]
    assert fold("68.73 ± 0.77 and more", 12) == ["68.73 ± 0.77", "and more"]


def test_names_are_not_broken_and_long_paths_are():
    rows = [["cifar_fs_conv64_pretrain", "fewshot-cli-weights", "a/" * 30], ["x", "y", "z"]]
    text = grid(["name", "package", "file"], rows, 70)
    assert "cifar_fs_conv64_pretrain" in text and "fewshot-cli-weights" in text and "a/" * 30 not in text


def test_free_room_is_shared_by_columns_of_text():
    assert columns._shared_out([10, 10, 5], [12, 40, 5], 45) == [12, 28, 5]


def test_a_block_may_be_given_by_header_and_rows_alone():
    assert tables(Format.table, (["a"], [["x"]]), width=20) == tables(Format.table, Block(["a"], [["x"]]), width=20)
