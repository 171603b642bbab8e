"""What one pass over the rows of a corpus collects. Its size does not depend on their number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

COLUMNS = (
    "sequence_id",
    "prompt_id",
    "text",
    "prompt_tokens",
    "new_tokens",
    "finish_reason",
    "mean_plausible",
)
QUARANTINED = 20  # rows that are listed
BINS_PER_DOUBLING = 4  # of the histogram of plausible sets


@dataclass(frozen=True)
class SampleRow:
    """A row that the page shows."""

    sequence_id: int
    prompt_id: int
    text: str
    prompt_tokens: int
    new_tokens: int
    finish_reason: str
    mean_plausible: float


@dataclass
class Reading:
    """Counts over the rows of a corpus, and the rows that the page shows."""

    rows: int = 0
    new_tokens: int = 0
    plausible_tokens: float = 0.0  # sum over all draws of the size of their plausible set
    reasons: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)  # rows by their new tokens
    plausible: Counter[int] = field(default_factory=Counter)  # rows by `bin_of` their mean
    samples: dict[int, SampleRow] = field(default_factory=dict)  # by sequence_id
    quarantined: list[SampleRow] = field(default_factory=list)  # the first ones

    def add(self, row: SampleRow, is_sample: bool) -> None:
        self.rows += 1
        self.new_tokens += row.new_tokens
        self.reasons[row.finish_reason] += 1
        self.lengths[row.new_tokens] += 1
        if row.new_tokens and row.mean_plausible >= 1:  # NaN is not
            self.plausible_tokens += row.mean_plausible * row.new_tokens
            self.plausible[bin_of(row.mean_plausible)] += 1
        if is_sample:
            self.samples[row.sequence_id] = row
        if row.finish_reason == "quarantined" and len(self.quarantined) < QUARANTINED:
            self.quarantined.append(row)

    @property
    def mean_plausible(self) -> float | None:
        """The mean size of the plausible set over all draws; None if nothing was drawn."""
        return self.plausible_tokens / self.new_tokens if self.plausible_tokens else None

    def length_at(self, share: float) -> int:
        """Return the new tokens that this share of the rows does not exceed."""
        seen = 0
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= share * self.rows:
                return length
        return 0


def bin_of(size: float) -> int:
    """Return the bin of a plausible set: bin k begins at 2 ** (k / BINS_PER_DOUBLING)."""
    return math.floor(BINS_PER_DOUBLING * math.log2(size))


def bin_start(index: int) -> float:
    return float(2 ** (index / BINS_PER_DOUBLING))


def texts_while_reading(
    rows: Iterable[dict[str, Any]], into: Reading, is_sample: Callable[[int, int], bool]
) -> Iterator[str]:
    """Yield the text of every row and count it. `is_sample` is asked for the index of a row and for
    its sequence_id."""
    for index, fields in enumerate(rows):
        row = SampleRow(**fields)
        into.add(row, is_sample(index, row.sequence_id))
        yield row.text
