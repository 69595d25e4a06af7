"""Text as a terminal may have it: without characters that steer it, and in an encoding that lacks some."""

import codecs
import re

# control characters but tab and line feed, those that turn the direction of writing, and separators of lines
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_BREAKING = re.compile("[\t\n]")
_PLAIN = {
    **{"─": "-", "━": "-", "│": "|", "═": "=", "–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "·": "*"},
    **{
        "±": "+-",
        "≤": "<=",
        "≥": ">=",
        "→": "->",
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "µ": "u",
        "²": "^2",
        "³": "^3",
    },
}


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def unsteered(text: str) -> str:
    """Text whose steering characters are written out, `\\x1b` in place of an escape; lines stay lines."""
    return _STEERING.sub(_escape, text)


def shown(name: str) -> str:
    """A name in a message or a cell: on one line, without steering characters."""
    return _BREAKING.sub(_escape, unsteered(name))


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding does not have: plainer ones, else their numbers."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking), error.end


codecs.register_error("fsl.substitute", _substitute)
