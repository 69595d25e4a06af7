"""LaTeX tables: balanced, as many cells as columns, everything that LaTeX reads as a command escaped."""

import re
import shutil
import subprocess

import pytest

from fewshot_cli.runtime.latex import escape, latex

HEADER = ["head", "accuracy %", "difference", "p"]
ROWS = [
    ["emd", "68.73 ± 0.77", "", ""],
    ["prototype {distance=cosine}", "55.72 ± 0.75", "-13.02 ± 0.66", "<0.001"],
    ["a_b & c% #1 $x$ ~^\\", "68.51 ± 0.77", "-0.22 ± 0.40", "0.280"],
]
MARKS = {(0, 1): "best", (2, 1): "tied"}


def body(text):
    return [line.strip() for line in text.splitlines() if not line.startswith("%")]


def test_a_table_is_balanced_and_every_row_has_every_column():
    lines = body(latex(HEADER, ROWS, MARKS))
    assert lines[0] == r"\begin{tabular}{lrrr}" and lines[-1] == r"\end{tabular}"
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    rows = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 4 and all(len(re.findall(r"(?<!\\)&", row)) == 3 for row in rows)
    text = "\n".join(lines).replace(r"\{", "").replace(r"\}", "")
    assert text.count("{") == text.count("}")
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0


def test_the_best_is_bold_and_what_ties_with_it_has_a_dagger_that_is_explained():
    lines = body(latex(HEADER, ROWS, MARKS))
    assert r"emd & \textbf{68.73} $\pm$ 0.77 &  &  \\" in lines
    assert any(r"68.51 $\pm$ 0.77$^\dagger$" in line for line in lines)
    assert lines[-2].startswith(r"\multicolumn{4}{l}") and "not significantly different" in lines[-2]
    assert not any("dagger" in line for line in body(latex(HEADER, ROWS, {(0, 1): "best"})))


def test_a_negative_number_has_a_minus_and_a_name_keeps_its_hyphen():
    text = latex(["a", "b"], [["few-shot", "-0.22"], ["-", "-"]])
    assert r"few-shot & $-$0.22 \\" in text and r"- & - \\" in text


@pytest.mark.parametrize("character", list('#$%&_{}~^\\<>|"'))
def test_no_character_stays_a_command(character):
    assert escape(f"a{character}b") != f"a{character}b"
    assert escape("plain text, 5-way") == "plain text, 5-way"


def test_notes_are_comments_and_nothing_steers_the_terminal():
    text = latex(["a"], [["x\x1b[31m\ny"]], notes=["two\nlines"])
    assert text.startswith("% two\n% lines\n") and "\x1b" not in text and r"\textbackslash{}x1b[31m y \\" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
def test_tex_takes_it(tmp_path):
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs,textcomp}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{latex(HEADER, ROWS, MARKS)}\end{{document}}"
    (tmp_path / "t.tex").write_text(document.replace("\\begin{document}", "\\begin{document}\n"))
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)
