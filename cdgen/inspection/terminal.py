"""An inspected sequence on a terminal: the text in the colours of the contrast, and a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cdgen.inspection.inspected import Inspected
from cdgen.inspection.pieces import STRONG, WEAK, level
from cdgen.inspection.positions import Position
from cdgen.inspection.running_text import MARKS, STYLES, running_text
from cdgen.inspection.strategies import STRATEGIES
from cdgen.inspection.summary import summary_lines, summary_of
from cdgen.shown_text import shown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDEST = 100  # columns of text; longer lines are hard to read
_NARROWEST = 80  # columns of the table
_SAME = "·"  # a strategy draws the token that is there


def print_inspected(found: Inspected, console: Console, with_table: bool) -> None:
    """Print the text and its summary, and a row for each token `with_table`."""
    width = min(console.width, _WIDEST)
    # rich would cut numbers to make the table fit. A narrow terminal breaks its lines instead.
    console.width = max(console.width, _NARROWEST)
    for part in _parts(found, width, with_table):
        console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))


def _parts(found: Inspected, width: int, with_table: bool) -> Iterator[RenderableType]:
    yield shown("  ".join(f"{role} {name}" for role, name in found.models.items()))
    yield ", ".join(f"{name} {value}" for name, value in found.settings.items())
    yield ""
    yield from _text(found, width)
    yield ""
    if "BAD" in found.models:
        yield _legend()
    yield from summary_lines(summary_of(found))
    if with_table:
        yield ""
        yield _table(found)
        yield f"{_SAME} the token of the text; ! outside the plausible set"


def _text(found: Inspected, width: int) -> Iterator[Text]:
    for part in found.parts:
        if part.title:
            yield Text(part.title, style="bold")
        yield from running_text(part.pieces, width)


def _legend() -> Text:
    """Say what marks and colours mean."""
    words = {
        2: f" GOOD prefers it by {STRONG:g} nats or more, ",
        1: f" by {WEAK:g}; ",
        -2: f" BAD by {STRONG:g} or more, ",
        -1: f" by {WEAK:g}",
    }
    legend = Text()
    for strength, text in words.items():
        legend.append(MARKS[strength], STYLES[strength]).append(text)
    return legend


def _table(found: Inspected) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("at", justify="right")
    table.add_column("token", no_wrap=True, max_width=12)
    for name in ("GOOD", "BAD", "diff", "set", "rank", "H"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in found.strategy_names:
        table.add_column(STRATEGIES[name].removesuffix("-only"), no_wrap=True, max_width=10)
    for record in found.positions:
        style = "dim" if found.is_prompt(record.index) else ""
        table.add_row(*_cells(found, record), style=style)
    return table


def _cells(found: Inspected, record: Position) -> Iterator[str | Text]:
    difference = record.difference
    yield str(record.index)
    yield Text(shown(found.texts.name(record.token)))
    yield f"{record.good_logprob:z.2f}"
    yield "" if record.bad_logprob is None else f"{record.bad_logprob:z.2f}"
    shade = STYLES[level(difference)]
    yield Text("" if difference is None else f"{difference:+z.2f}", style=shade)
    yield str(record.plausible)
    yield f"{record.rank}{' ' if record.is_plausible else '!'}"
    yield f"{record.entropy:z.2f}"
    for name in found.strategy_names:
        token = getattr(record.drawn, name)
        yield Text(_SAME if token == record.token else shown(found.texts.name(token)))
