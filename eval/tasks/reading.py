"""Reading times: how much better a model's surprisal of a word predicts how long people look at it.

The data are 205 English sentences of de Varda et al. 2023; `reading_regressions` defines the score.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.errors import UsageError
from cdgen.eval.modes import Mode
from cdgen.eval.scoring.spans import SpanEncoder, Spans
from cdgen.eval.statistics.comparison import Scored
from cdgen.eval.statistics.intervals import resampled
from cdgen.eval.summary import Prediction, Summary
from cdgen.eval.tasks.reading_regressions import MEASURES, METRICS, Regressions

Score = Callable[[Spans], np.ndarray]
# A word, its context (`item`), both of the word before it, and the numbers of MEASURES.
Word = dict[str, Any]


def read_words(path: Path) -> list[Word]:
    """Return the words of reading_data.csv; a missing number is NaN.

    Raises UsageError naming the line.
    """
    words = []
    try:
        # surrogateescape lets invalid UTF-8 through, so that its line can be named.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            for line in reader:
                words.append(_word(line, f"{path}, line {reader.line_num}"))
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not words:
        raise UsageError(f"{path}: expected one row per word, found none")
    return words


def _word(line: dict[str | Any, Any], place: str) -> Word:
    if None in line or None in line.values():  # DictReader's sign of surplus or missing fields
        raise UsageError(f"{place}: expected as many fields as the first line names")
    try:
        numbers = {name: float(line[name] or "nan") for name in MEASURES}
        texts = {name: line[name] for name in ("item", "word", "prev_item", "prev_word")}
        "".join(texts.values()).encode()
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{place}: a column is missing, or holds neither a number nor text ({error})"
        ) from error
    if not texts["word"] or (texts["prev_item"] and not texts["prev_word"]):
        raise UsageError(f"{place}: expected a word, found none")
    # One context is empty: it was the word "None", which the source took for a missing value.
    return {**texts, "item": texts["item"] or "None", **numbers}


@dataclass(frozen=True)
class Reading:
    """The words of the reading task, and how to tokenize them."""

    words: list[Word]
    encoder: SpanEncoder
    mode: Mode

    def predict(self, score: Score) -> list[Prediction]:
        """Return each word's log-probability, its surprisal and that of the word before it, and
        what was measured of people."""
        own, before = surprisals(self.words, self.encoder, score, self.mode.pipeline_reading)
        columns = zip(self.words, own.tolist(), before.tolist(), strict=True)
        return [
            {
                "uid": "reading",
                "index": index,
                "scores": [-pred],
                "pred": pred,
                "prev_pred": _none_for_nan(prev),
                **{name: _none_for_nan(word[name]) for name in MEASURES},
            }
            for index, (word, pred, prev) in enumerate(columns)
        ]

    def summary(self, predictions: list[Prediction], mode: Mode) -> Summary:
        regressions = Regressions(predictions)
        strata = np.zeros(len(predictions), np.int64)
        return Summary(
            {
                metric: resampled(partial(regressions.gain, metric), strata, seed=0)
                for metric in METRICS
            },
            items=len(predictions),
        )

    def collated(self, predictions: list[Prediction]) -> dict[str, Any]:
        """Return predictions.json in the form of the BabyLM pipeline, under its place there."""
        entries = [
            {"id": row["index"], "pred": row["pred"], "prev_pred": row["prev_pred"]}
            for row in predictions
        ]
        return {"zero_shot/causal/reading": {"reading": {"predictions": entries}}}


def _none_for_nan(number: float) -> float | None:
    return None if math.isnan(number) else number


def surprisals(
    words: list[Word], encoder: SpanEncoder, score: Score, as_pipeline: bool
) -> tuple[np.ndarray, np.ndarray]:  # [n], [n] float64 nats
    """Return -log p(word | context) of each word and of the word before it; NaN if there is none.

    The word's tokens are those of context + " " + word; with `as_pipeline` they are those of
    `_pipeline_steps`. A pair of context and word that occurs twice is scored once.
    """
    pairs = [(word["item"], word["word"]) for word in words]
    previous = [(word["prev_item"], word["prev_word"]) for word in words]
    # pandas reads the context "None" as a missing value, and the pipeline repairs only `item`.
    missing = {"", "None"} if as_pipeline else {""}
    known = np.array([context not in missing for context, _ in previous])
    wanted = pairs + [pair for pair, is_known in zip(previous, known, strict=True) if is_known]
    unique = list(dict.fromkeys(wanted))
    surprisals_of = _pipeline_surprisals if as_pipeline else _plain_surprisals
    found = dict(zip(unique, surprisals_of(unique, encoder, score).tolist(), strict=True))
    before = np.full(len(words), math.nan)
    before[known] = [found[pair] for pair in wanted[len(pairs) :]]
    return np.array([found[pair] for pair in pairs]), before


def _plain_surprisals(
    pairs: list[tuple[str, str]], encoder: SpanEncoder, score: Score
) -> np.ndarray:
    texts = [f"{context} {word}" for context, word in pairs]
    return -score(encoder.endings(texts, [len(context) for context, _ in pairs]))


def _pipeline_surprisals(
    pairs: list[tuple[str, str]], encoder: SpanEncoder, score: Score
) -> np.ndarray:
    steps = [_pipeline_steps(context, word, encoder) for context, word in pairs]
    texts, tokens = zip(*(step for word in steps for step in word), strict=True)
    log_probs = score(encoder.continuations(list(texts), list(tokens)))
    owners = np.repeat(np.arange(len(steps)), [len(word) for word in steps])
    return -np.bincount(owners, log_probs, minlength=len(steps))


def _pipeline_steps(context: str, word: str, encoder: SpanEncoder) -> list[tuple[str, int]]:
    """Return the texts and next tokens whose probabilities the pipeline's `get_p2` multiplies.

    It tokenizes the word without a space before it. Each further piece is decoded and tokenized
    again, and its first token is scored after the context with the earlier pieces glued on. That
    is not the word's surprisal, but the published numbers are made of it.
    """
    ids = encoder.token_ids(word)
    steps = [(context, ids[0])]
    context += encoder.decode([ids[0]])
    for piece in ids[1:]:
        text = encoder.decode([piece])
        steps.append((context, encoder.token_ids(text)[0]))
        context += text
    return steps


def scored(metric: str, runs: list[list[Prediction]]) -> Scored:
    """Return the runs of one method, one per seed, ready for comparison."""
    regressions = [Regressions(predictions) for predictions in runs]
    strata = np.zeros(len(runs[0]), np.int64)
    return Scored(
        strata,
        lambda counts: np.array([own.gain(metric, counts) for own in regressions]),
        len(runs),
    )
