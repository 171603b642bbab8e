"""A text in HTML, coloured by the contrast: what GOOD prefers, and what BAD does.

Colours are not all: the lines below pieces differ too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from cdgen.inspection.pieces import Piece
from cdgen.page.rendering import fragment

TEMPLATES = Path(__file__).parent / "templates"


def contrast_style() -> str:
    """Return the style sheet of `contrast_spans`, for `Page.styles`."""
    return (TEMPLATES / "contrast.css").read_text()


def contrast_spans(pieces: Sequence[Piece]) -> str:
    """Return the text of `pieces` as markup; pieces side by side of one level share a span."""
    runs = [
        (level, "".join(piece.text for piece in run))
        for level, run in groupby(pieces, key=lambda piece: piece.level)
    ]
    return fragment(TEMPLATES / "contrast_spans.html.jinja", runs=runs)
