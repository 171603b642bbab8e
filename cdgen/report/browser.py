"""The browser of samples: the rows that the page shows, those of one prompt side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from cdgen.finish_reason import FINISH_REASONS
from cdgen.inspection.pieces import STRONG, WEAK
from cdgen.inspection.spans import contrast_style
from cdgen.page.parts import Section
from cdgen.page.rendering import as_json, fragment
from cdgen.report.contrast import TOKENS, Contrast
from cdgen.report.corpora import SAMPLES, Corpus, have_same_prompts, partner_of
from cdgen.report.reading import SampleRow
from cdgen.shown_text import shown

_TEMPLATES = Path(__file__).parent / "templates"
TEXT_BYTES = 6_000  # of a text in the page


def browser_style() -> str:
    """Return the style sheet of `browser_section`, for `Page.styles`."""
    return contrast_style() + (_TEMPLATES / "browser.css").read_text(encoding="utf-8")


def browser_script() -> str:
    """Return the script of `browser_section`, for `Page.scripts`."""
    return (_TEMPLATES / "browser.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class ShownText:
    """A row as the browser shows it."""

    number: int  # of its corpus
    corpus: Corpus
    row: SampleRow
    text: str
    is_cut: bool

    @property
    def key(self) -> str:
        """The name of its tokens among the coloured ones."""
        return f"{self.number}-{self.row.sequence_id}"


@dataclass(frozen=True)
class Item:
    """Texts that stand side by side."""

    title: str
    prompt_id: int
    texts: Sequence[ShownText]


def items_of(corpora: Sequence[Corpus]) -> list[Item]:
    """Return the shown rows in the order of the first corpus. Two corpora that continue the same
    prompts are paired; of two others, the rows of one follow those of the other."""
    if len(corpora) == 2 and have_same_prompts(corpora[0].plan, corpora[1].plan):
        return [_pair(corpora, row) for row in corpora[0].reading.samples.values()]
    return [
        _item(row, [_shown(number, corpus, row)])
        for number, corpus in enumerate(corpora)
        for row in corpus.reading.samples.values()
    ]


def _pair(corpora: Sequence[Corpus], row: SampleRow) -> Item:
    one, other = corpora
    texts = [_shown(0, one, row)]
    if partner := other.reading.samples.get(partner_of(row, one.plan, other.plan)):
        texts.append(_shown(1, other, partner))
    return _item(row, texts)


def _item(row: SampleRow, texts: Sequence[ShownText]) -> Item:
    return Item(f"Sequence {row.sequence_id:,}", row.prompt_id, texts)


def _shown(number: int, corpus: Corpus, row: SampleRow) -> ShownText:
    text, is_cut = _cut_to_bytes(row.text)
    return ShownText(number, corpus, row, text, is_cut)


def _cut_to_bytes(text: str) -> tuple[str, bool]:
    """Cut a text where it would take more than TEXT_BYTES of the page, escaped as it is there."""
    taken = 0
    for index, character in enumerate(text):
        taken += len(escape(shown(character)).encode())
        if taken > TEXT_BYTES:
            return text[:index], True
    return text, False


def within_budget(items: Sequence[Item], corpora: int) -> list[list[int]]:
    """Return the sequences of each corpus, in the order of the page, that GOOD and BAD are to
    read: as many items as TOKENS allow."""
    found: list[list[int]] = [[] for _ in range(corpora)]
    left = TOKENS
    for item in items:
        left -= sum(text.row.prompt_tokens + text.row.new_tokens for text in item.texts)
        if left < 0:
            break
        for text in item.texts:
            found[text.number].append(text.row.sequence_id)
    return found


def browser_section(
    corpora: Sequence[Corpus], items: Sequence[Item], contrast: Contrast
) -> Section:
    """Return the section of samples."""
    notes = [_which(corpora)]
    if contrast.texts:
        notes.append(
            f"GOOD and BAD read the first {len(contrast.texts)} texts: these are coloured."
        )
    tokens = contrast.as_fields()
    markup = fragment(
        _TEMPLATES / "browser.html.jinja",
        items=items,
        prompts=sorted({item.prompt_id for item in items}),
        reasons=FINISH_REASONS,
        longest=max((text.row.new_tokens for item in items for text in item.texts), default=0),
        tokens=as_json(tokens) if tokens else None,
        paired=len(corpora) == 2,
        weak=WEAK,
        strong=STRONG,
    )
    return Section("samples", "Samples", notes, markup=markup)


def _which(corpora: Sequence[Corpus]) -> str:
    """Say which rows are shown."""
    rows = corpora[0].reading.rows
    which = f"All {rows:,} rows" if rows <= SAMPLES else f"{SAMPLES} of {rows:,} rows"
    spaced = "" if rows <= SAMPLES else ", evenly spaced from the first to the last"
    text = f"{which} of {corpora[0].name}{spaced}."
    if len(corpora) == 2:
        alike = have_same_prompts(corpora[0].plan, corpora[1].plan)
        text += (
            f" Beside each stands a row of {corpora[1].name} that continues the same prompt."
            if alike
            else f" {corpora[1].name} continues other prompts, so its rows follow by themselves."
        )
    return f"{text} A text that takes more than {TEXT_BYTES:,} bytes is cut."
