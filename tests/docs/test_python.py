"""Blocks of Python on the pages run as they stand; those of extend.md are classes that its own test takes."""

import re

import pages
import pytest

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
SHOWN = [page for page in pages.PAGES if page.name != "extend.md" and BLOCK.search(page.read_text("utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", SHOWN, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_the_python_of_a_page_runs(page, glyph_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FSL_DATA_ROOT", str(glyph_root))
    for code in BLOCK.findall(page.read_text("utf-8")):
        exec(compile(code, page.name, "exec"), {"__name__": "page"})
