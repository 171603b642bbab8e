"""Perplexity of held-out text, per token, word and byte.

Documents (any files that `cdgen generate --prompts` reads) are cut into windows of the model's
context length; every token is predicted once, the first of a window from the prefix alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdgen.corpus.documents import read_documents
from cdgen.errors import UsageError
from cdgen.eval.scoring.spans import SpanEncoder, Spans
from cdgen.eval.statistics.comparison import Scored
from cdgen.eval.statistics.intervals import resampled
from cdgen.eval.summary import Mode, Row, Summary

_UNITS = {"perplexity": "tokens", "word_perplexity": "words", "byte_perplexity": "bytes"}


@dataclass(frozen=True)
class Perplexity:
    texts: list[str]
    spans: Spans  # of every window
    owners: np.ndarray  # [windows] int64: the text that each belongs to

    @classmethod
    def load(cls, folder: Path, encoder: SpanEncoder) -> Perplexity:
        texts = list(read_documents(str(folder)))
        if not texts:
            raise UsageError(f"{folder}: expected documents, found blank lines or nothing")
        return cls.of(texts, encoder)

    @classmethod
    def of(cls, texts: list[str], encoder: SpanEncoder) -> Perplexity:
        spans, owners = encoder.windows(texts)
        return cls(texts, spans, owners)

    def rows(self, score: Callable[[Spans], np.ndarray]) -> list[Row]:
        """The summed log-probability of each document, and its size."""
        count = len(self.texts)
        sums = np.bincount(self.owners, score(self.spans), minlength=count).tolist()
        scored = self.spans.last - self.spans.first + 1
        tokens = np.bincount(self.owners, scored, minlength=count).astype(int).tolist()
        return [
            {
                "uid": "perplexity",
                "index": index,
                "scores": [sums[index]],
                "tokens": tokens[index],
                "words": len(text.split()),
                "bytes": len(text.encode()),
            }
            for index, text in enumerate(self.texts)
        ]

    def summary(self, rows: list[Row], mode: Mode) -> Summary:
        strata = np.zeros(len(rows), np.int64)
        per_byte = per_unit([rows], "bytes")(np.ones(len(rows), np.int64))[0]
        return Summary(
            {
                name: resampled(_first(per_unit([rows], unit)), strata, seed=0)
                for name, unit in _UNITS.items()
            },
            items=len(rows),
            extra={"bits_per_byte": math.log2(per_byte)},
        )


def per_unit(
    runs: list[list[Row]], unit: str
) -> Callable[[np.ndarray], np.ndarray]:  # counts [n] -> [S]
    """exp(-sum of log-probabilities / number of `unit`s), document i counted counts[i] times. The
    number of tokens is each run's own: its tokenizer may be another."""
    sums = np.array([[row["scores"][0] for row in rows] for rows in runs])
    sizes = np.array([[row[unit] for row in rows] for rows in runs], float)
    return lambda counts: np.exp(-(sums @ counts) / (sizes @ counts))


def _first(values: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], float]:
    return lambda counts: float(values(counts)[0])


def scored(metric: str, runs: list[list[Row]]) -> Scored:
    """The runs of one method, one per seed, ready for comparison."""
    strata = np.zeros(len(runs[0]), np.int64)
    value = per_unit(runs, _UNITS[metric])
    return Scored(strata, value, len(runs), higher_is_better=False)
