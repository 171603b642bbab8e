"""The parts of a page: headings, paragraphs, tables, figures, samples and commands.

The templates lay them out, page.html.jinja for people and page.md.jinja for repositories. All text
is text: nothing in it is markup but what `markup` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]  # the first cell of a row is its heading
    is_long: bool = False  # folded away until it is asked for


@dataclass(frozen=True)
class Figure:
    name: str  # of its file in figures/, without .svg
    title: str
    text: str  # what it shows, for those who do not see it
    svg: str  # an <svg> element, of which every word is escaped
    note: str = ""  # below it, after the title


@dataclass(frozen=True)
class Samples:
    """Texts of several arms that continue the same prompt."""

    title: str
    texts: Mapping[str, str]  # by arm


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    samples: Sequence[Samples] = ()
    commands: Sequence[str] = ()
    markup: str = ""  # what `rendering.fragment` made, after everything else; not in Markdown


@dataclass(frozen=True)
class Page:
    title: str
    kind: str  # what it is a page of: "Experiment of cdgen run"
    answer: Sequence[str]  # sentences
    warnings: Sequence[str]
    sections: Sequence[Section] = field(default=())
    answer_title: str = "What came out"
    styles: Sequence[str] = ()  # style sheets beside page.css, as CSS
    scripts: Sequence[str] = ()  # JavaScript; the page is complete without it
