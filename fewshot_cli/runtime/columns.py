"""Tables in aligned columns of a plain text, as wide as they are or fitted into a terminal."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from fewshot_cli.runtime.shown import shown

FOLDED, NAME = 16, 32  # columns that a folded column of text keeps at least, and those of the longest word kept whole
_GAP = "  "  # between two columns
_MARGIN = " "
_WORD = re.compile(r"[^\W\d]{3}")  # what makes a cell a text
_PIECE = re.compile(r"\S+(?: [±−–] ?\S+)*")  # a word, or a number with its interval


def grid(
    header: Sequence[Any], rows: Iterable[Sequence[Any]], width: int | None = None, least: Sequence[str] = ()
) -> str:
    """A plain table in aligned columns; in `width` columns of a terminal where that is given.

    Where it is too wide, columns of text are folded between words first. If that does not do, columns are left out,
    those named in `least` first and then from the right, and a line below says which. Numbers are never broken.
    """
    titles, cells = [shown(str(title)) for title in header], [[shown(str(cell)) for cell in row] for row in rows]
    kept, widths = _fitted(titles, cells, width, least)
    lines = _row([titles[c] for c in kept], widths)
    lines.append(_MARGIN + _GAP.join("─" * wide for wide in widths))
    for row in cells:
        lines += _row([row[c] for c in kept], widths)
    gone = [title for c, title in enumerate(titles) if c not in kept]
    if gone:
        lines += ["", *fold(f"not shown: {', '.join(gone)}; --wide shows all columns", width or 0)]
    return "\n".join(lines)


def _length(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _fitted(
    titles: list[str], cells: list[list[str]], width: int | None, least: Sequence[str]
) -> tuple[list[int], list[int]]:
    """The columns of a table that fit into `width`, and the width of each."""
    columns = range(len(titles))
    values = [[row[c] for row in cells] for c in columns]
    whole = [max(map(_length, [titles[c], *values[c]])) for c in columns]
    if width is None or sum(whole) + len(_GAP) * (len(whole) - 1) + len(_MARGIN) <= width:
        return list(columns), whole
    title = [_longest_piece([titles[c]]) for c in columns]  # titles are folded, too
    most = [max(title[c], *map(_length, values[c]), 1) for c in columns]
    text = [any(_WORD.search(cell) for cell in values[c]) and most[c] > FOLDED for c in columns]
    words = [max(FOLDED, title[c], _longest_piece(values[c], NAME), _longest_number(values[c])) for c in columns]
    small = [min(most[c], words[c]) if text[c] else most[c] for c in columns]
    order = [titles.index(name) for name in least if name in titles]
    order += [c for c in reversed(columns) if c not in order and c]
    kept = list(columns)

    def room() -> int:
        return width - len(_MARGIN) - len(_GAP) * (len(kept) - 1)

    while sum(small[c] for c in kept) > room() and len(kept) > 1:
        kept.remove(next(c for c in order if c in kept))
    return kept, _shared_out([small[c] for c in kept], [most[c] for c in kept], room())


def _longest_piece(texts: list[str], most: int | None = None) -> int:
    """The length of the longest word; of those that are longer than `most` none, which may be broken."""
    lengths = [_length(piece) for text in texts for piece in _PIECE.findall(text)]
    return max((length for length in lengths if most is None or length <= most), default=0)


def _longest_number(texts: list[str]) -> int:
    return max((_length(p) for text in texts for p in _PIECE.findall(text) if not _WORD.search(p)), default=0)


def _shared_out(least: list[int], most: list[int], room: int) -> list[int]:
    """Widths between their least and their most that fill the room: what is free goes to all in equal parts."""
    widths, spare = list(least), room - sum(least)
    for done, c in enumerate(sorted(range(len(widths)), key=lambda c: most[c] - least[c])):
        more = max(0, min(spare // (len(widths) - done), most[c] - least[c]))
        widths[c], spare = widths[c] + more, spare - more
    return [max(1, min(wide, room)) for wide in widths]


def _row(cells: list[str], widths: list[int]) -> list[str]:
    """The lines of a row."""
    folded = [fold(cell, wide) for cell, wide in zip(cells, widths, strict=True)]
    lines = []
    for place in range(max(map(len, folded), default=0)):
        parts = [lines_of[place] if place < len(lines_of) else "" for lines_of in folded]
        padded = [part + " " * (wide - _length(part)) for part, wide in zip(parts, widths, strict=True)]
        lines.append((_MARGIN + _GAP.join(padded)).rstrip())
    return lines


def fold(text: str, width: int) -> list[str]:
    """The lines of a text in so many columns, broken between words; a word that is longer is broken, a number never."""
    if _length(text) <= width:
        return [text]
    lines = [""]
    for piece in _PIECE.findall(text):
        longer = f"{lines[-1]} {piece}" if lines[-1] else piece
        if _length(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        while _length(piece) > width and _WORD.search(piece):
            cut = next(at for at in range(len(piece), 0, -1) if _length(piece[:at]) <= width or at == 1)
            lines[-1], piece = piece[:cut], piece[cut:]
            lines.append("")
        lines[-1] = piece
    return lines
