"""The sections that add up the rows: lengths, finish reasons, plausible sets, quarantined rows."""

from __future__ import annotations

from collections.abc import Sequence

from cdgen.page.charts import Bin, histogram
from cdgen.page.parts import Figure, Section, Table
from cdgen.report.cells import Cell, cut, number, table_of
from cdgen.report.corpora import Corpus
from cdgen.report.reading import BINS_PER_DOUBLING, QUARANTINED, bin_start

_LENGTH_BINS = 24  # at most


def length_section(corpora: Sequence[Corpus]) -> Section:
    rows: list[tuple[str, Cell]] = [
        ("new tokens: mean", lambda c: number(_mean_length(c), ",.1f")),
        ("new tokens: median", lambda c: f"{c.reading.length_at(0.5):,}"),
        ("new tokens: 95th percentile", lambda c: f"{c.reading.length_at(0.95):,}"),
        ("ended by eos", _share_of("eos")),
        ("ended by length", _share_of("length")),
        ("quarantined", _share_of("quarantined")),
    ]
    figure = _length_figure(corpora)
    notes = [
        "A sequence ends by eos where an end-of-text token was drawn, by length at the plan's"
        " limit, and quarantined where logits could not be sampled."
    ]
    table = table_of("Lengths and finish reasons", corpora, rows)
    return Section("lengths", "Lengths and finish reasons", notes, [figure], [table])


def _mean_length(corpus: Corpus) -> float | None:
    return corpus.reading.new_tokens / corpus.reading.rows if corpus.reading.rows else None


def _share_of(reason: str) -> Cell:
    def cell(corpus: Corpus) -> str:
        count, rows = corpus.reading.reasons[reason], corpus.reading.rows
        return f"{count:,} ({100 * count / rows:.1f} %)" if rows else "-"

    return cell


def _length_figure(corpora: Sequence[Corpus]) -> Figure:
    longest = max((max(c.reading.lengths, default=0) for c in corpora), default=0)
    width = max(1, -(-(longest + 1) // _LENGTH_BINS))
    starts = range(0, longest + 1, width)
    bins = [Bin(f"{start:,}", f"{start + width - 1:,}") for start in starts]
    shares = {}
    for corpus in corpora:
        own = [0.0] * len(bins)
        for length, count in corpus.reading.lengths.items():
            own[length // width] += count / corpus.reading.rows
        shares[corpus.name] = own
    title = "New tokens per sequence"
    return histogram("lengths", title, "new tokens", bins, shares, "Share of the sequences.")


def plausible_section(corpora: Sequence[Corpus]) -> Section:
    rows: list[tuple[str, Cell]] = [
        ("alpha", lambda c: f"{c.plan.sampling.alpha:g}"),
        ("plausible tokens, mean of all draws", _mean_plausible),
    ]
    notes = [
        "The plausible set of a draw holds the tokens with at least alpha times the probability of"
        " GOOD's best one. A row records the mean size over its draws; with alpha 0 every token is"
        " plausible."
    ]
    masked = [corpus for corpus in corpora if corpus.is_masked and corpus.reading.plausible]
    figures = [_plausible_figure(masked)] if masked else []
    table = table_of("Plausible sets", corpora, rows)
    return Section("plausible", "Plausible sets", notes, figures, [table])


def _mean_plausible(corpus: Corpus) -> str:
    return number(corpus.reading.mean_plausible, ".2f") if corpus.is_masked else "all tokens"


def _plausible_figure(corpora: Sequence[Corpus]) -> Figure:
    used = [index for corpus in corpora for index in corpus.reading.plausible]
    numbers = range(min(used), max(used) + 1)
    bins = [Bin(f"{bin_start(i):.3g}", f"{bin_start(i + 1):.3g}") for i in numbers]
    shares = {}
    for corpus in corpora:
        total = corpus.reading.plausible.total() or 1
        shares[corpus.name] = [corpus.reading.plausible[index] / total for index in numbers]
    return histogram(
        "plausible",
        "Mean size of the plausible set, row by row",
        "plausible tokens",
        bins,
        shares,
        f"Share of the rows; {BINS_PER_DOUBLING} bins per doubling.",
    )


def quarantine_section(corpora: Sequence[Corpus]) -> Section | None:
    """Return the rows that could not be sampled; None if there are none."""
    tables = []
    for corpus in corpora:
        if not (count := corpus.reading.reasons["quarantined"]):
            continue
        rows = [
            [f"{row.sequence_id:,}", f"{row.prompt_id:,}", f"{row.new_tokens:,}", cut(row.text)]
            for row in corpus.reading.quarantined
        ]
        which = "all" if count <= QUARANTINED else f"the first {QUARANTINED}"
        caption = f"{corpus.name}: {which} of {count:,}"
        tables.append(Table(caption, ["sequence", "prompt", "new tokens", "text so far"], rows))
    notes = [
        "The logits of these sequences could not be sampled at some step: NaN, an infinite value,"
        " or no finite one. Nothing was drawn there, and their neighbours are untouched."
    ]
    return Section("quarantined", "Quarantined rows", notes, tables=tables) if tables else None
