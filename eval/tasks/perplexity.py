"""Perplexity of held-out text, per token, word and byte.

Documents (any files that `cdgen generate --prompts` reads) are cut into windows of the model's
context length. Every token is predicted once; the first token of a window has only the prefix, BOS
for most models, as its context. In the mode `paper` the windows are blocks that cross documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.corpus.documents import open_source
from cdgen.corpus.special_marks import SpecialMarks
from cdgen.errors import UsageError
from cdgen.eval.modes import Mode
from cdgen.eval.scoring.spans import SpanEncoder, Spans
from cdgen.eval.statistics.comparison import Scored
from cdgen.eval.statistics.intervals import resampled
from cdgen.eval.summary import Prediction, Summary
from cdgen.words import split_words

_UNITS = {"perplexity": "tokens", "word_perplexity": "words", "byte_perplexity": "bytes"}


@dataclass(frozen=True)
class Perplexity:
    """The tokenized documents of the perplexity task."""

    texts: list[str]
    spans: Spans  # one per window, or per text in a block
    owners: np.ndarray  # [spans] int64: the index of the text that each span belongs to

    @classmethod
    def load(cls, folder: Path, encoder: SpanEncoder, mode: Mode) -> Perplexity:
        """Read the documents of a folder; raises UsageError if there are none."""
        source = open_source(str(folder))
        marks = SpecialMarks(encoder.tokenizer, encoder.tokenizer.encode_special_tokens)
        texts = [marks.seen(text) for text in source.texts()]
        if not texts:
            raise UsageError(f"{folder}: expected documents, found blank lines or nothing")
        source.say(f"{len(texts):,} documents", *marks.notes())
        return cls.of(texts, encoder, mode.block_perplexity)

    @classmethod
    def of(cls, texts: list[str], encoder: SpanEncoder, by_blocks: bool = False) -> Perplexity:
        cut = encoder.blocks if by_blocks else encoder.windows
        return cls(texts, *cut(texts))

    def predict(self, score: Callable[[Spans], np.ndarray]) -> list[Prediction]:
        """Return the log-probability of each document, and its tokens, words and bytes."""
        count = len(self.texts)
        sums = np.bincount(self.owners, score(self.spans), minlength=count).tolist()
        counted = self.spans.last - self.spans.first + 1
        tokens = np.bincount(self.owners, counted, minlength=count).astype(int).tolist()
        return [
            {
                "uid": "perplexity",
                "index": index,
                "scores": [sums[index]],
                "tokens": tokens[index],
                "words": len(split_words(text)),
                "bytes": len(text.encode()),
            }
            for index, text in enumerate(self.texts)
        ]

    def summary(self, predictions: list[Prediction], mode: Mode) -> Summary:
        strata = np.zeros(len(predictions), np.int64)
        per_byte = per_unit([predictions], "bytes")(np.ones(len(predictions), np.int64))[0]
        return Summary(
            {
                name: resampled(_first(per_unit([predictions], unit)), strata, seed=0)
                for name, unit in _UNITS.items()
            },
            items=len(predictions),
            extra={"bits_per_byte": math.log2(per_byte)},
        )

    def collated(self, predictions: list[Prediction]) -> dict[str, Any]:
        """Return nothing: the BabyLM pipeline has no such task."""
        return {}


def per_unit(
    runs: list[list[Prediction]], unit: str
) -> Callable[[np.ndarray], np.ndarray]:  # counts [n] -> [seeds]
    """Return exp(-sum of log-probabilities / number of `unit`s) of each run, as a function of how
    often each document was drawn. Each run counts its own tokens: tokenizers may differ."""
    sums = np.array([[row["scores"][0] for row in predictions] for predictions in runs])
    sizes = np.array([[row[unit] for row in predictions] for predictions in runs], float)
    return lambda counts: np.exp(-(sums @ counts) / (sizes @ counts))


def _first(values: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], float]:
    return lambda counts: float(values(counts)[0])


def scored(metric: str, runs: list[list[Prediction]]) -> Scored:
    """Return the runs of one method, one per seed, ready for comparison."""
    strata = np.zeros(len(runs[0]), np.int64)
    value = per_unit(runs, _UNITS[metric])
    return Scored(strata, value, len(runs), higher_is_better=False)
