"""What GOOD and BAD say of the shown samples, where both models can be opened.

Samples are read in the order of the page until TOKENS are spent, so that neither the page nor the
time that it takes grows with the corpus.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdgen.corpus.reader import rows_so_far
from cdgen.errors import CdgenError, one_line
from cdgen.inspection.corpus import InspectedCorpus, open_corpus
from cdgen.inspection.pieces import Piece, TokenTexts
from cdgen.inspection.positions import Position
from cdgen.inspection.reader import SequenceReader
from cdgen.report.corpora import Corpus
from cdgen.report.strategies import StrategySums
from cdgen.shown_text import shown

TOKENS = 12_000  # of all corpora, prompts included; each takes some 45 bytes of the page
PIECE = 200  # characters of a piece: that of a hostile tokenizer may be of any length


@dataclass
class Contrast:
    """The numbers of the samples' tokens, for the page's script, and what they add up to."""

    pieces: dict[str, int] = field(default_factory=dict)  # texts of tokens, by their number
    texts: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the key of a shown text
    sums: dict[str, StrategySums] = field(default_factory=dict)  # by the corpus's name
    problems: dict[str, str] = field(default_factory=dict)  # why a corpus has none

    def as_fields(self) -> dict[str, Any] | None:
        """Return what the script reads; None if there is nothing."""
        pieces = [shown(text) for text in self.pieces]
        return {"pieces": pieces, "texts": self.texts} if self.texts else None

    def problem_lines(self) -> list[str]:
        """Say of every corpus that was not read why that is."""
        return [f"{name}: not measured: {why}" for name, why in self.problems.items()]

    def number_of(self, text: str) -> int:
        """Return the number by which the columns call a text."""
        return self.pieces.setdefault(text[:PIECE], len(self.pieces))


def measure_contrast(
    corpora: Sequence[Corpus],
    wanted: Sequence[Sequence[int]],  # the sequence_ids to read of each corpus, in order
    good: Path | None,
    bad: str | None,
) -> Contrast:
    """Read the samples of each corpus with its models, or say why that cannot be."""
    found = Contrast()
    if bad == "none":  # large models take their time
        found.problems = {corpus.name: "--bad none asks for no model" for corpus in corpora}
        return found
    for number, (corpus, ids) in enumerate(zip(corpora, wanted, strict=True)):
        if not ids:
            few = f"its first sample alone has more than {TOKENS:,} tokens"
            found.problems[corpus.name] = few if corpus.reading.rows else "it has no row yet"
            continue
        try:
            opened = open_corpus(corpus.out, good, bad)
            if opened.pair.bad_source.kind == "none":
                found.problems[corpus.name] = "it was written without a BAD, and no --bad is given"
                continue
            _measure(found, number, corpus, opened, ids)
        except CdgenError as error:
            found.problems[corpus.name] = one_line(error)
    return found


def _measure(
    found: Contrast, number: int, corpus: Corpus, opened: InspectedCorpus, ids: Sequence[int]
) -> None:
    rows = {row["sequence_id"]: row for row in _token_rows(corpus.out, {*ids})}
    chosen = [rows[i] for i in ids if i in rows]
    print(f"{corpus.name}: GOOD and BAD read {len(chosen)} samples", file=sys.stderr)
    for note in opened.notes:
        print(note, file=sys.stderr)
    reader = SequenceReader.load(opened.plan, opened.pair, opened.strategies)
    positions = reader.positions([opened.checked(row) for row in chosen])
    texts = TokenTexts(opened.pair.tokenizer)
    sums = found.sums[corpus.name] = StrategySums(corpus.plan.strategy)
    for row, records in zip(chosen, positions, strict=True):
        sums.add([record for record in records if record.index >= row["prompt_tokens"]])
        key = f"{number}-{row['sequence_id']}"
        found.texts[key] = _numbers(row, records, texts, found.number_of)


def _token_rows(out: Path, wanted: set[int]) -> Iterator[dict[str, Any]]:
    rows = rows_so_far(out, ["sequence_id", "tokens", "prompt_tokens"])
    return (row for row in rows if row["sequence_id"] in wanted)


def _numbers(
    row: dict[str, Any],
    records: Sequence[Position],  # of every token but the first
    texts: TokenTexts,
    number_of: Callable[[str], int],
) -> dict[str, Any]:
    """Return a column for each number of a piece. Where a piece has several tokens, probabilities
    are those of all, and the rest is of the first one."""
    by_index: dict[int, Position] = {record.index: record for record in records}
    pieces = texts.pieces(row["tokens"], records)
    firsts = [by_index.get(piece.first) for piece in pieces]

    def each(of: Callable[[Position], Any]) -> list[Any]:
        return [None if record is None else of(record) for record in firsts]

    def drawn(name: str) -> list[Any]:
        return each(lambda record: number_of(texts.name(getattr(record.drawn, name))))

    return {
        "prompt": sum(piece.first < row["prompt_tokens"] for piece in pieces),
        "piece": [number_of(piece.text) for piece in pieces],
        "level": [piece.level for piece in pieces],
        "difference": [_rounded(piece.difference) for piece in pieces],
        "good": [_rounded(_logprob(by_index, piece)) for piece in pieces],
        "plausible": each(lambda record: record.plausible),
        "rank": each(lambda record: record.rank),
        "entropy": each(lambda record: _rounded(record.entropy)),
        "vanilla": drawn("vanilla"),
        "masked": drawn("plausible"),
        "cd": drawn("cd"),
    }


def _logprob(records: dict[int, Position], piece: Piece) -> float | None:
    """Return GOOD's log-probability of all tokens of a piece; the first token of all has none."""
    own = [records[i] for i in range(piece.first, piece.first + piece.count) if i in records]
    return sum(record.good_logprob for record in own) if own else None


def _rounded(value: float | None) -> float | None:
    """Round to what the page shows; JSON has no infinity and no NaN."""
    return round(value, 2) if value is not None and math.isfinite(value) else None
