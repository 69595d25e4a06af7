"""Each format of results is written in one place, whatever the cells hold."""

import csv
import io
import json
from xml.etree import ElementTree as ET

import pytest

from fewshot_cli.runtime.render import Format, JUnitCase, as_csv, as_json, csv_table, grid, junit, markdown, tables

AWKWARD = 'fewshot-cli[cuda] q[/x] :smile:, "quoted"'


def test_a_table_prints_cells_as_they_are():
    text = grid(["a[b]", "n"], [[AWKWARD, 1], ["short", 22]])
    header, _, first, second = [line for line in text.splitlines() if line.strip()]
    assert header.startswith(" a[b]") and first.startswith(f" {AWKWARD} ")
    assert header.index("n") == first.rindex("1") == second.index("22")


def test_a_markdown_table_has_a_rule_below_its_header():
    assert markdown(["a", "b"], [[1, 2.5]]) == "| a | b |\n| --- | --- |\n| 1 | 2.5 |"


def test_csv_reads_back():
    rows = list(csv.reader(io.StringIO(csv_table(["name", "line"], [[AWKWARD, "two\nlines"], ["", None]]))))
    assert rows == [["name", "line"], [AWKWARD, "two\nlines"], ["", ""]]


def test_records_have_a_column_for_every_key_of_any_of_them():
    text = as_csv([{"a": 1}, {"b": 2, "a": 3}])
    assert text == "a,b\n1,\n3,2\n"


def test_tables_are_markdown_only_where_it_is_asked_for():
    block = (["a"], [[1]])
    assert tables(Format.md, block, block) == ["| a |\n| --- |\n| 1 |"] * 2
    assert "|" not in tables(Format.table, block)[0]


def test_json_is_indented():
    assert as_json({"a": [1]}).startswith('{\n  "a"') and json.loads(as_json({"a": [1]})) == {"a": [1]}


@pytest.fixture
def report():
    cases = [
        JUnitCase("one", "suite.a", 1.25, "accuracy 60 %"),
        JUnitCase("two <&>", "suite.b", 0.5, "accuracy 50 %", failure="below 60", failure_text="a paper"),
        JUnitCase("three", "suite.b", skipped="not part of this package"),
    ]
    return ET.fromstring(junit("fsl test", cases))


def test_junit_counts_its_cases(report):
    counted = {"tests": "3", "failures": "1", "errors": "0", "skipped": "1", "time": "1.750"}
    assert report.tag == "testsuite" and report.attrib == {"name": "fsl test", **counted}


def test_junit_has_the_outcome_of_each_case(report):
    one, two, three = report
    assert one.attrib == {"classname": "suite.a", "name": "one", "time": "1.250"}
    assert [child.tag for child in one] == ["system-out"] and one[0].text == "accuracy 60 %"
    assert two.get("name") == "two <&>" and [child.tag for child in two] == ["failure", "system-out"]
    assert two[0].get("message") == "below 60" and two[0].text == "a paper"
    assert [child.tag for child in three] == ["skipped"] and three[0].get("message") == "not part of this package"


def test_cells_that_a_spreadsheet_would_evaluate_are_quoted_and_numbers_are_not():
    rows = [["=1+1", "+a", "-b", "@c", "\td"], ["-0.5", "+3", "-1e9", "-inf", ""], [-0.5, 3, None, "a=b", "x"]]
    text = csv_table(["=h", "b", "c", "d", "e"], rows)
    assert list(csv.reader(io.StringIO(text))) == [
        ["'=h", "b", "c", "d", "e"],
        ["'=1+1", "'+a", "'-b", "'@c", "'\td"],
        ["-0.5", "+3", "-1e9", "-inf", ""],
        ["-0.5", "3", "", "a=b", "x"],
    ]
