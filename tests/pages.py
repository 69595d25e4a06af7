"""The pages that people read, and the commands on them.

A block of commands (```bash) is run by a test unless an HTML comment on the line above it says otherwise:
`<!-- not run: why -->`, `<!-- slow -->` for those that only the slow tests run, and README's `<!-- run -->` and
`<!-- test -->`, which `.ci/run` takes. A block of output (```text) below `<!-- printed -->` is what the last command
before it prints, except for its numbers.
"""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n\s*)?^ *```(?P<language>bash|text)\n(?P<text>.*?)^ *```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its mark (the comment above it, or the empty string), its language and its text."""

    mark: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, continued lines joined and comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def module(name: str) -> ModuleType:
    """The module `docs/<name>.py`, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def blocks(page: Path) -> list[Block]:
    """The blocks of commands and of output of a page, in order."""
    found = _BLOCK.finditer(page.read_text("utf-8"))
    return [Block(m["mark"] or "", m["language"], m["text"]) for m in found]


def inline(page: Path) -> Iterator[list[str]]:
    """The words of each command that stands in a sentence, in backticks and on one line or broken over two."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for text in re.findall(r"`(fsl [^`]+)`", prose):
        yield shlex.split(text.replace("\\|", "|"))


def form(text: str) -> str:
    """A printed text without its numbers, spaces and rules, in which a table's width shows."""
    return re.sub(r"[\s─━-]+", " ", re.sub(r"\d[\d.,]*", "#", text)).strip()
