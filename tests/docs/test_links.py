"""Links between the pages, and the files that they name, lead somewhere."""

import re

import pages
import pytest

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img [^>]*src=\"([^\"]+)\"")


@pytest.fixture(scope="module")
def made() -> set[str]:
    """The names of the pages that are made when the site is built."""
    return {f"docs/reference/{name}.md" for name in pages.module("generate").pages()}


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them of plain words."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", prose, re.M)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"\{.*\}", "", head)).strip().lower() for head in heads)
    return {re.sub(r"[ -]+", "-", head) for head in plain} | set(re.findall(r"\{ *#([\w-]+)", text))


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.IDS)
def test_links_lead_somewhere(page, made):
    text = page.read_text("utf-8")
    for match in _LINK.finditer(re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)):
        target = match[1] or match[2]
        if re.match(r"(https?|mailto):", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if str(file.relative_to(pages.ROOT)) in made:
            continue
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text("utf-8")), target


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.IDS)
def test_files_of_the_repository_that_a_page_names_exist(page):
    names = re.findall(r"(?<![\w/])(?:benchmarks|examples|fewshot_cli|tests|\.ci)/[\w./-]*\w", page.read_text("utf-8"))
    missing = {name for name in names if not (pages.ROOT / name).exists()}
    assert not missing


def test_every_page_is_in_the_navigation_and_readme_is_short():
    nav = (pages.ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    missing = [p for p in pages.DOCS.rglob("*.md") if f": {p.relative_to(pages.DOCS)}\n" not in nav + "\n"]
    assert not missing
    assert len((pages.ROOT / "README.md").read_text("utf-8").splitlines()) < 120
