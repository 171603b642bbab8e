"""An inspected sequence as a page of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdgen.inspection.inspected import Inspected
from cdgen.inspection.pieces import STRONG, WEAK, level
from cdgen.inspection.positions import Position
from cdgen.inspection.spans import TEMPLATES, contrast_style
from cdgen.inspection.strategies import STRATEGIES
from cdgen.inspection.summary import summary_lines, summary_of
from cdgen.packages import require_package
from cdgen.page.parts import Page, Section, Table
from cdgen.page.rendering import fragment, html_of
from cdgen.storage import make_folder, write_atomic


@dataclass(frozen=True)
class Row:
    """One token in the table of the page."""

    index: int
    is_prompt: bool
    token: str
    numbers: tuple[str, str]  # log p_GOOD, log p_BAD
    difference: str
    level: int  # of the difference
    more: tuple[str, str, str]  # size of the plausible set, rank, entropy
    drawn: tuple[tuple[str, bool], ...]  # token, and whether it is the one of the text


def write_page(found: Inspected, path: Path) -> None:
    """Write the page. Raises UsageError without jinja2, StorageError if it cannot be written."""
    require_package("jinja2", " to write a page")
    make_folder(path.parent)
    write_atomic(path, html_of(_page(found)).encode())


def _page(found: Inspected) -> Page:
    return Page(
        title=found.subject,
        kind="cdgen inspect",
        answer=[f"{line}." for line in summary_lines(summary_of(found))],
        answer_title="In short",
        warnings=found.notes,
        sections=[
            Section("text", "The text", markup=_text(found)),
            Section("tokens", "Every token", markup=_tokens(found)),
            Section("settings", "Models and settings", tables=[_settings(found)]),
        ],
        styles=[contrast_style()],
    )


def _text(found: Inspected) -> str:
    return fragment(
        TEMPLATES / "text.html.jinja",
        parts=[part for part in found.parts if part.pieces],
        has_bad="BAD" in found.models,
        weak=f"{WEAK:g}",
        strong=f"{STRONG:g}",
    )


def _tokens(found: Inspected) -> str:
    rows = [_row(found, record) for record in found.positions]
    strategies = [STRATEGIES[name] for name in found.strategy_names]
    return fragment(TEMPLATES / "tokens.html.jinja", rows=rows, strategies=strategies)


def _row(found: Inspected, record: Position) -> Row:
    bad, difference = record.bad_logprob, record.difference
    outside = "" if record.is_plausible else " (outside)"
    return Row(
        index=record.index,
        is_prompt=found.is_prompt(record.index),
        token=found.texts.name(record.token),
        numbers=(f"{record.good_logprob:z.2f}", "" if bad is None else f"{bad:z.2f}"),
        difference="" if difference is None else f"{difference:+z.2f}",
        level=level(difference),
        more=(f"{record.plausible}", f"{record.rank}{outside}", f"{record.entropy:z.2f}"),
        drawn=tuple(_drawn(found, record)),
    )


def _drawn(found: Inspected, record: Position) -> Iterator[tuple[str, bool]]:
    for name in found.strategy_names:
        token = getattr(record.drawn, name)
        yield found.texts.name(token), token == record.token


def _settings(found: Inspected) -> Table:
    hashes = {"GOOD": found.pair.good.sha256}
    if found.pair.bad:
        hashes["BAD"] = found.pair.bad.sha256
    rows = [
        *([role, name] for role, name in found.models.items()),
        *([f"{role}, sha256", digest] for role, digest in hashes.items()),
        *([name, str(value)] for name, value in found.settings.items()),
    ]
    return Table("What decided the numbers", ["what", "value"], rows)
