"""The section of diversity, repetition and novelty: what `cdgen measure` computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cdgen.eval.corpus_measures import NOVELTY_SIZES
from cdgen.page.parts import Section
from cdgen.report.cells import Cell, number, table_of
from cdgen.report.corpora import MEASURED, Corpus


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
