"""The messages that the page on troubleshooting quotes are those of the code."""

import ast
import re

import pages
import pytest

PAGE = pages.DOCS / "troubleshooting.md"
QUOTED = re.findall(r"^### `(.*)`$", PAGE.read_text("utf-8"), re.M)


def said(node: ast.expr) -> str | None:
    """A string of the code with … for what is filled in, or None where it is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
    return None


@pytest.fixture(scope="module")
def messages() -> str:
    """Every string of the package, one on a line."""
    folders = ("fewshot_cli", "solvers", "heads", "backbones")
    files = [f for folder in folders for f in sorted((pages.ROOT / folder).rglob("*.py"))]
    strings = (
        said(node) for f in files for node in ast.walk(ast.parse(f.read_text("utf-8"))) if isinstance(node, ast.expr)
    )
    return "\n".join(text for text in strings if text)


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_still_said(quoted, messages):
    assert quoted.replace("'", "`") in messages.replace("'", "`"), quoted


def test_the_page_quotes_messages():
    assert len(QUOTED) >= 15
