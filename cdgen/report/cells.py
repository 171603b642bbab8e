"""Tables in which every measure has a row, and every corpus a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cdgen.page.parts import Table
from cdgen.report.corpora import Corpus

_CUT = 200  # characters of a text in a table
Cell = Callable[[Corpus], str]  # "-" for what a corpus does not have


def table_of(caption: str, corpora: Sequence[Corpus], rows: Sequence[tuple[str, Cell]]) -> Table:
    """Return a row for every measure that some corpus has, with a column for each corpus."""
    cells = [[name, *map(cell, corpora)] for name, cell in rows]
    shown = [row for row in cells if any(cell != "-" for cell in row[1:])]
    return Table(caption, ["", *(corpus.name for corpus in corpora)], shown)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def cut(text: str, most: int = _CUT) -> str:
    return text if len(text) <= most else text[:most].rstrip() + " ..."
