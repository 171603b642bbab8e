"""The sections of the page that show numbers: every measure has a column for each corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cdgen.corpus.folder import CorpusFolder
from cdgen.differences import flat
from cdgen.eval.corpus_measures import NOVELTY_SIZES
from cdgen.page.charts import Bin, histogram
from cdgen.page.parts import Figure, Section, Table
from cdgen.report.corpora import MEASURED, Corpus
from cdgen.report.reading import BINS_PER_DOUBLING, QUARANTINED, bin_start
from cdgen.storage import sha256_of

_LENGTH_BINS = 24  # at most
_CUT = 200  # characters of a text in a table
Cell = Callable[[Corpus], str]


def table_of(caption: str, corpora: Sequence[Corpus], rows: Sequence[tuple[str, Cell]]) -> Table:
    """Return a row for every measure that some corpus has, with a column for each corpus."""
    cells = [[name, *map(cell, corpora)] for name, cell in rows]
    shown = [row for row in cells if any(cell != "-" for cell in row[1:])]
    return Table(caption, ["", *(corpus.name for corpus in corpora)], shown)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


# ---- what it is, and how far --------------------------------------------------------------------


def size_section(corpora: Sequence[Corpus]) -> Section:
    rows: list[tuple[str, Cell]] = [
        ("state", _state),
        ("sequences", lambda c: f"{c.reading.rows:,} of {c.plan.num_sequences:,}"),
        ("new tokens", lambda c: f"{c.reading.new_tokens:,}"),
        ("words, prompts included", lambda c: f"{c.status.counts.words:,}"),
        ("new tokens per second, now", _rate),
    ]
    notes = []
    if any(corpus.status.finalized for corpus in corpora):
        notes = ["A finished corpus does not record how long it took, so it has no rate here."]
    tables = [table_of("Models and settings", corpora, _settings())]
    tables.append(table_of("Size", corpora, rows))
    return Section("size", "Settings, size and throughput", notes, tables=tables)


def _settings() -> list[tuple[str, Cell]]:
    return [
        ("strategy", lambda c: c.plan.strategy),
        ("GOOD", lambda c: cut(str(c.status.models.good)) if c.status.models else "-"),
        ("BAD", _bad),
        ("contrast strength", lambda c: f"{c.plan.sampling.bad_weight:g}"),
        ("alpha", lambda c: f"{c.plan.sampling.alpha:g}"),
        ("temperature", lambda c: f"{c.plan.sampling.temperature:g}"),
        ("prompts", lambda c: f"{c.plan.prompts.count:,} x {c.plan.sequences_per_prompt:,}"),
        ("seed", lambda c: str(c.plan.seed)),
        ("written with", lambda c: f"cdgen {c.plan.cdgen_version}, {c.plan.device}"),
    ]


def _bad(corpus: Corpus) -> str:
    named = corpus.status.models.bad if corpus.status.models else None
    return cut(str(named)) if named else cut(corpus.plan.bad, 12)


def _state(corpus: Corpus) -> str:
    if corpus.status.finalized:
        return "finished"
    alive = sum(map(corpus.status.is_alive, corpus.status.workers))
    ranges = f"{corpus.status.ranges_done:,} of {corpus.status.ranges_total:,} ranges"
    return f"unfinished: {ranges}; workers at work: {alive}"


def _rate(corpus: Corpus) -> str:
    alive = filter(corpus.status.is_alive, corpus.status.workers)
    rate = sum(worker.tokens_per_second for worker in alive)
    return f"{rate:,.0f}" if rate else "-"


# ---- lengths and plausible sets -----------------------------------------------------------------


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


# ---- diversity ----------------------------------------------------------------------------------


def diversity_section(corpora: Sequence[Corpus]) -> Section:
    rows: list[tuple[str, Cell]] = [
        ("documents measured", _measured(",", "documents")),
        ("words that distinct-n looks at", _measured(",", "distinct_words")),
        *((f"distinct-{n}", _measured(".3f", "distinct", n)) for n in (1, 2, 3, 4)),
        ("diversity", _measured(".3f", "diversity")),
        ("repeated 4-grams", _measured(".3f", "repetition")),
        ("copies of other documents", _measured(".3f", "duplicates")),
        ("compression by zlib", _measured(".2f", "compression")),
        *((f"novel {n}-grams", _measured(".3f", "novelty", n)) for n in NOVELTY_SIZES),
    ]
    notes = [
        f"As cdgen measure computes them, of at most {MEASURED:,} documents, evenly spaced, with"
        " their prompts. distinct-n is measured on the first words and falls as text gets longer:"
        " compare it only at the same number of words."
    ]
    if not any(corpus.measures and corpus.measures["novelty"] for corpus in corpora):
        notes.append(
            "Novelty is not measured: give the text that the models were trained on as --training."
        )
    table = table_of("Diversity", corpora, rows)
    return Section("diversity", "Diversity, repetition, novelty", notes, tables=[table])


def _measured(form: str, *keys: Any) -> Cell:
    def cell(corpus: Corpus) -> str:
        found: Any = corpus.measures
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return number(found, form)

    return cell


# ---- what went wrong ----------------------------------------------------------------------------


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


def cut(text: str, most: int = _CUT) -> str:
    return text if len(text) <= most else text[:most].rstrip() + " ..."


# ---- plan ---------------------------------------------------------------------------------------


def plan_section(corpora: Sequence[Corpus]) -> Section:
    """Return the plan, field by field, with the fields that differ first."""
    fields = [flat(corpus.plan.fields) for corpus in corpora]
    names = dict.fromkeys(name for own in fields for name in own)
    cells = {name: [cut(_value(own.get(name))) for own in fields] for name in names}
    differing = [[name, *own] for name, own in cells.items() if len({*own}) > 1]
    alike = [[name, *own] for name, own in cells.items() if len({*own}) == 1]
    head = ["", *(corpus.name for corpus in corpora)]
    tables = [table_of("Hashes", corpora, _hashes())]
    if len(corpora) > 1:
        tables += [Table("Where the plans differ", head, differing)] if differing else []
        tables.append(Table("What the plans have in common", head, alike, is_long=True))
    else:
        tables.append(Table("The whole plan", head, alike, is_long=True))
    notes = [
        "The plan decides every byte: the same plan on the same kind of device gives the same."
    ]
    return Section("plan", "Plan and provenance", notes, tables=tables)


def _hashes() -> list[tuple[str, Cell]]:
    return [
        ("plan", lambda c: c.plan.sha256),
        ("manifest, which has the hash of every file", _manifest_hash),
    ]


def _manifest_hash(corpus: Corpus) -> str:
    return sha256_of(CorpusFolder(corpus.out).manifest_file) if corpus.status.finalized else "-"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "(none)"
    return "(absent)" if value is None else str(value)
