"""The sections that say what a corpus is: its models and size, and its whole plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cdgen.corpus.folder import CorpusFolder
from cdgen.differences import flat
from cdgen.page.parts import Section, Table
from cdgen.report.cells import Cell, cut, table_of
from cdgen.report.corpora import Corpus
from cdgen.storage import sha256_of


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
        ("device", lambda c: cut(c.plan.device)),
        ("version of cdgen", lambda c: cut(c.plan.cdgen_version)),
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


def plan_section(corpora: Sequence[Corpus]) -> Section:
    """Return the plan, field by field, with the fields that differ first."""
    fields = [flat(corpus.plan.fields) for corpus in corpora]
    names = dict.fromkeys(name for own in fields for name in own)
    values = {name: [own.get(name) for own in fields] for name in names}
    rows = {name: [name, *(cut(_value(value)) for value in own)] for name, own in values.items()}
    differing = [rows[name] for name, own in values.items() if own[0] != own[-1]]
    alike = [rows[name] for name, own in values.items() if own[0] == own[-1]]
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
