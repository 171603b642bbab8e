"""Reading times: how much better a model's surprisal of a word predicts how long people look at it.

De Varda et al. 2023 (205 English sentences), scored as babylm/evaluation-pipeline-2025 does
(reading/run.py): dR2 = (R2 with surprisal - R2 without) / (1 - R2 without) of a linear regression
on frequency, length, position and their products; for self-paced reading the previous word's
length and surprisal join the baseline.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.errors import UsageError
from cdgen.eval.scoring.spans import SpanEncoder, Spans
from cdgen.eval.statistics.comparison import Scored
from cdgen.eval.statistics.intervals import resampled
from cdgen.eval.summary import Mode, Row, Summary

EYE_TRACKING = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound")
SELF_PACED = "self_paced_reading_time"
_PREDICTORS = ("Subtlex_log10", "length", "context_length")
_SPILL_OVER = (*_PREDICTORS, "prev_length", "prev_pred")
_NUMBERS = (*_PREDICTORS, "prev_length", *EYE_TRACKING, SELF_PACED)
METRICS = ("eye_tracking", "self_paced")

Score = Callable[[Spans], np.ndarray]


def read_rows(path: Path) -> list[Row]:
    """One word in its context per row; missing numbers are NaN. Raises UsageError with the line."""
    rows = []
    try:
        # Bytes that are no UTF-8 are let through to the line that they are in.
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            for line in reader:
                rows.append(_row(line, f"{path}, line {reader.line_num}"))
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not rows:
        raise UsageError(f"{path}: expected one row per word, found none")
    return rows


def _row(line: dict[str | Any, Any], place: str) -> Row:
    if None in line or None in line.values():  # what csv makes of surplus and of missing fields
        raise UsageError(f"{place}: expected as many fields as the first line names")
    try:
        numbers = {name: float(line[name] or "nan") for name in _NUMBERS}
        texts = {name: line[name] for name in ("item", "word", "prev_item", "prev_word")}
        "".join(texts.values()).encode()
    except (KeyError, ValueError) as error:
        raise UsageError(f"{place}: a column is missing, no number or no text ({error})") from error
    if not texts["word"] or (texts["prev_item"] and not texts["prev_word"]):
        raise UsageError(f"{place}: expected a word, found none")
    # The one context that is empty was the word "None", taken for a missing value upstream.
    return {**texts, "item": texts["item"] or "None", **numbers}


@dataclass(frozen=True)
class Reading:
    words: list[Row]
    encoder: SpanEncoder
    mode: Mode

    def rows(self, score: Score) -> list[Row]:
        """A word's log-probability, its surprisal and the one before it, and what people did."""
        found, before = surprisals(self.words, self.encoder, score, self.mode.pipeline_spans)
        return [
            {
                "uid": "reading",
                "index": index,
                "scores": [-pred],
                "pred": pred,
                "prev_pred": None if math.isnan(prev) else prev,
                **{name: None if math.isnan(word[name]) else word[name] for name in _NUMBERS},
            }
            for index, (word, pred, prev) in enumerate(
                zip(self.words, found.tolist(), before.tolist(), strict=True)
            )
        ]

    def summary(self, rows: list[Row], mode: Mode) -> Summary:
        regressions = Regressions(rows)
        strata = np.zeros(len(rows), np.int64)
        return Summary(
            {
                metric: resampled(partial(regressions.gain, metric), strata, seed=0)
                for metric in METRICS
            },
            items=len(rows),
        )

    def collated(self, rows: list[Row]) -> dict[str, Any]:
        """The predictions in the form of the BabyLM pipeline's predictions.json."""
        fields = ("index", "pred", "prev_pred")
        entries = [
            dict(zip(("id", *fields[1:]), (row[f] for f in fields), strict=True)) for row in rows
        ]
        return {"reading": {"predictions": entries}}


def surprisals(
    rows: list[Row], encoder: SpanEncoder, score: Score, compat: bool
) -> tuple[np.ndarray, np.ndarray]:  # [n], [n] float64 nats
    """-log p(word | context) of each row's word and of the word before it; NaN where a sentence
    begins.

    The word's tokens are those of context + " " + word. With `compat` they are what the pipeline
    takes for them (`_pipeline_steps`).
    """
    pairs = [(row["item"], row["word"]) for row in rows]
    previous = [(row["prev_item"], row["prev_word"]) for row in rows]
    # pandas reads the context "None" as a missing value, and the pipeline mends only `item`.
    missing = {"", "None"} if compat else {""}
    known = np.array([context not in missing for context, _ in previous])
    wanted = pairs + [pair for pair, is_known in zip(previous, known, strict=True) if is_known]
    unique = list(dict.fromkeys(wanted))
    each = _as_the_pipeline(unique, encoder, score) if compat else _plain(unique, encoder, score)
    found = dict(zip(unique, each.tolist(), strict=True))
    before = np.full(len(rows), math.nan)
    before[known] = [found[pair] for pair in wanted[len(pairs) :]]
    return np.array([found[pair] for pair in pairs]), before


def _plain(pairs: list[tuple[str, str]], encoder: SpanEncoder, score: Score) -> np.ndarray:
    texts = [f"{context} {word}" for context, word in pairs]
    return -score(encoder.endings(texts, [len(context) for context, _ in pairs]))


def _as_the_pipeline(
    pairs: list[tuple[str, str]], encoder: SpanEncoder, score: Score
) -> np.ndarray:
    steps = [_pipeline_steps(context, word, encoder) for context, word in pairs]
    texts, tokens = zip(*(step for word in steps for step in word), strict=True)
    log_probs = score(encoder.continuations(list(texts), list(tokens)))
    owners = np.repeat(np.arange(len(steps)), [len(word) for word in steps])
    return -np.bincount(owners, log_probs, minlength=len(steps))


def _pipeline_steps(context: str, word: str, encoder: SpanEncoder) -> list[tuple[str, int]]:
    """The texts after which, and the tokens of which, the pipeline's `get_p2` multiplies
    probabilities: the word without a space before it; each further piece decoded, re-tokenized and
    its first token taken, after a context glued to the pieces without a space. Not the surprisal of
    the word (cdgen's own is), but what the published numbers are made of."""
    ids = encoder.token_ids(word)
    steps = [(context, ids[0])]
    context += encoder.decode([ids[0]])
    for piece in ids[1:]:
        text = encoder.decode([piece])
        steps.append((context, encoder.token_ids(text)[0]))
        context += text
    return steps


class Regressions:
    """The data of a reading task, ready to be fitted again and again with other weights."""

    def __init__(self, rows: list[Row]) -> None:
        names = (*_NUMBERS, "pred", "prev_pred")
        columns = {name: np.array([row[name] for row in rows], float) for name in names}
        self.eye = [_Fit.of(columns, target, _PREDICTORS) for target in EYE_TRACKING]
        self.self_paced = _Fit.of(columns, SELF_PACED, _SPILL_OVER)

    def gain(self, metric: str, counts: np.ndarray) -> float:  # counts [n] int64
        """dR2 as a fraction, with row i counted `counts[i]` times: of self-paced reading, or the
        mean over the four measures of eye tracking."""
        fits = self.eye if metric == "eye_tracking" else [self.self_paced]
        return float(np.mean([fit.gain(counts) for fit in fits]))


@dataclass(frozen=True)
class _Fit:
    """One regression, over the rows where nothing is missing."""

    used: np.ndarray  # [n] bool
    design: np.ndarray  # [rows, terms], the surprisal last
    target: np.ndarray  # [rows]

    @classmethod
    def of(cls, columns: dict[str, np.ndarray], target: str, predictors: tuple[str, ...]) -> _Fit:
        names = (*predictors, "pred")
        used = ~np.isnan(np.stack([columns[name] for name in (*names, target)])).any(0)
        # Centred: the fit is the same, products of predictors are far from being copies of them.
        x = {name: columns[name][used] - columns[name][used].mean() for name in names}
        products = [x[one] * x[other] for one, other in combinations(predictors, 2)]
        terms = [*(x[name] for name in predictors), *products, x["pred"]]
        return cls(used, np.stack(terms, 1), columns[target][used])

    def gain(self, counts: np.ndarray) -> float:
        weights = counts[self.used].astype(float)
        without = r_squared(self.design[:, :-1], self.target, weights)
        return (r_squared(self.design, self.target, weights) - without) / (1 - without)


def r_squared(
    design: np.ndarray,  # [n, terms], without a column of ones
    target: np.ndarray,  # [n]
    weights: np.ndarray,  # [n]
) -> float:
    """Of weighted least squares with an intercept, by the normal equations of unit columns."""
    share = weights / weights.sum()
    x, y = design - share @ design, target - share @ target
    x = x / np.sqrt(share @ x**2)
    weighted = x * share[:, None]
    slopes = np.linalg.solve(weighted.T @ x, weighted.T @ y)
    return float(1 - share @ (y - x @ slopes) ** 2 / (share @ y**2))


def scored(metric: str, runs: list[list[Row]]) -> Scored:
    """The runs of one method, one per seed, ready for comparison."""
    fits = [Regressions(rows) for rows in runs]
    strata = np.zeros(len(runs[0]), np.int64)
    return Scored(
        strata, lambda counts: np.array([fit.gain(metric, counts) for fit in fits]), len(runs)
    )
