"""A text on a terminal: lines that fit, marks below what they mark, nothing that is obeyed."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from cdgen.inspection.pieces import Piece
from cdgen.inspection.running_text import running_text


def lines_of(texts: list[tuple[str, float]], width: int = 20) -> list[str]:
    pieces = [Piece(text, i, 1, difference) for i, (text, difference) in enumerate(texts)]
    return [line.plain for line in running_text(pieces, width)]


def test_marks_stand_below_the_first_letter() -> None:
    assert lines_of([("The", 0.0), (" fox", 2.5), ("es", 0.7), (" ran", -0.6), (" off", -9.0)]) == [
        "The foxes ran off",
        "    #  +  -   =",
    ]


def test_a_space_alone_has_its_mark_below() -> None:
    assert lines_of([("a", 0.0), (" ", -1.0), ("b", 1.0)]) == ["a b", " -+"]


def test_lines_break_between_words_and_at_line_ends() -> None:
    words = [(" one", 0.0)] * 8 + [("s", 1.0), ("\n\nnew\n", 0.0)]
    assert lines_of(words) == [
        *["one one one one one", "one one ones", "           +", "", "new", ""]
    ]


def test_a_word_longer_than_a_line_is_cut() -> None:
    for line in lines_of([("x" * 45, 1.0), (" y", 0.0)]):
        assert cell_len(line) <= 20
    assert "".join(lines_of([("x" * 45, 0.0)])) == "x" * 45


def test_wide_characters_keep_the_marks_in_place() -> None:
    lines = lines_of([("日本", 0.0), ("語", 3.0), ("🦊", 0.0), ("a", -3.0)])
    assert lines == ["日本語🦊a", "    #   ="]


@pytest.mark.parametrize("hostile", ["\x1b[31m", "\x9b31m", "\u202e", "\r", "\x07"])
def test_nothing_is_obeyed(hostile: str) -> None:
    (line,) = lines_of([(hostile, 0.0)])
    assert line == "".join(
        f"\\u{ord(c):04x}" if c in "\x1b\x9b\u202e\r\x07" else c for c in hostile
    )


def test_markup_of_rich_is_text() -> None:
    assert lines_of([("[bold]x[/]", 0.0)]) == ["[bold]x[/]"]
