"""A text in lines for a terminal, with a mark below each piece that one of the models prefers.

The marks say without colour what the colours say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rich.cells import cell_len, chop_cells
from rich.text import Text

from cdgen.inspection.pieces import Piece
from cdgen.shown_text import shown

MARKS = {2: "#", 1: "+", 0: " ", -1: "-", -2: "="}
# Dark letters on light colours can be read on any terminal; blue and orange can be told apart by
# nearly everybody.
STYLES = {
    2: "#10131a on #7db8f5",
    1: "#10131a on #cfe4fb",
    0: "",
    -1: "#10131a on #fbe0bd",
    -2: "#10131a on #f3ab57",
}
_TAB = "    "
Part = tuple[str, int]  # a piece's text within one line, and its level


def running_text(pieces: Sequence[Piece], width: int) -> list[Text]:
    """Return the lines of a text, each followed by its marks if it has any."""
    lines = []
    for line in _lines(pieces, width):
        text = Text(no_wrap=True)
        for part, level in line:
            text.append(part, STYLES[level])
        lines.append(text)
        if any(level for _, level in line):
            lines.append(Text(_marks(line), no_wrap=True))
    return lines


def _marks(line: Iterable[Part]) -> str:
    marks = ""
    for part, level in line:
        # Below the first letter, not the space, if there is a letter.
        indent = cell_len(part) - cell_len(part.lstrip()) if part.strip() else 0
        marks += (" " * indent + MARKS[level]).ljust(cell_len(part))
    return marks.rstrip()


def _lines(pieces: Sequence[Piece], width: int) -> Iterator[list[Part]]:
    """Break a text at its own line ends, and between words where a line is full."""
    line: list[Part] = []
    room = width
    for word in _words(pieces):
        if word is None or (line and _cells(word) > room):
            yield line
            line, room = [], width
        for text, level in _within(word or [], width):
            if not line:
                text = text.removeprefix(" ")
            if cell_len(text) > room:
                yield line
                line, room = [], width
            line.append((text, level))
            room -= cell_len(text)
    yield line


def _words(pieces: Sequence[Piece]) -> Iterator[list[Part] | None]:
    """Yield pieces that belong together on a line; None is a line's end."""
    word: list[Part] = []
    for piece in pieces:
        for is_end, characters in groupby(piece.text, key=lambda c: c == "\n"):
            text = shown("".join(characters).replace("\t", _TAB))
            if word and (is_end or text.startswith(" ")):
                yield word
                word = []
            if is_end:
                yield from [None] * len(text)
            else:
                word.append((text, piece.level))
    if word:
        yield word


def _within(word: list[Part], width: int) -> Iterator[Part]:
    """Cut the parts that no line could hold."""
    for text, level in word:
        yield from ((part, level) for part in chop_cells(text, width))


def _cells(word: list[Part]) -> int:
    return sum(cell_len(text) for text, _ in word)
