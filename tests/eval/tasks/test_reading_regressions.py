"""Regressions of reading times agree with statsmodels, which the pipeline uses."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from cdgen.eval.modes import MODES
from cdgen.eval.scoring.spans import SpanEncoder
from cdgen.eval.tasks import reading
from cdgen.eval.tasks.reading import Reading, read_words
from cdgen.eval.tasks.reading_regressions import EYE_TRACKING, METRICS, SELF_PACED, Regressions

pytestmark = pytest.mark.usefixtures("one_thread")

PREDICTORS = ["Subtlex_log10", "length", "context_length"]


@pytest.fixture(scope="module")
def with_random_surprisals(real_csv: Path) -> list[dict[str, Any]]:
    """Return predictions with random surprisals; the first word of a sentence has none before
    it."""
    rng = np.random.default_rng(0)
    rows = read_words(real_csv)
    preds, before = rng.gamma(4, 2, len(rows)), rng.gamma(4, 2, len(rows))
    for row, pred, prev in zip(rows, preds.tolist(), before.tolist(), strict=True):
        row |= {"pred": pred + 0.1 * row["length"], "prev_pred": prev if row["prev_item"] else None}
    return rows


def gain_by_statsmodels(frame: pd.DataFrame, target: str, predictors: list[str]) -> float:
    """Fit as reading/run.py of the pipeline does: words without a missing value, all pairwise
    products."""
    products = [f"{one}:{other}" for one, other in combinations(predictors, 2)]
    base = f"{target} ~ {' + '.join([*predictors, *products])}"
    data = frame[[target, "pred", *predictors]].dropna()
    without = smf.ols(base, data=data).fit().rsquared
    return float((smf.ols(f"{base} + pred", data=data).fit().rsquared - without) / (1 - without))


def official_gains(frame: pd.DataFrame) -> dict[str, float]:
    eye = [gain_by_statsmodels(frame, target, PREDICTORS) for target in EYE_TRACKING]
    spill_over = [*PREDICTORS, "prev_length", "prev_pred"]
    return {
        "eye_tracking": float(np.mean(eye)),
        "self_paced": gain_by_statsmodels(frame, SELF_PACED, spill_over),
    }


def test_gains_are_those_of_the_pipelines_regressions(
    with_random_surprisals: list[dict[str, Any]],
) -> None:
    rows = with_random_surprisals
    expected = official_gains(pd.DataFrame(rows))
    assert min(expected.values()) > 1e-6, "nothing to be found"
    found = Regressions(rows)
    for metric, value in expected.items():
        assert found.gain(metric, np.ones(len(rows), np.int64)) == pytest.approx(value, abs=1e-10)


def test_rows_drawn_again_count_again(with_random_surprisals: list[dict[str, Any]]) -> None:
    rows = with_random_surprisals
    counts = np.random.default_rng(1).integers(0, 4, len(rows))
    frame = pd.DataFrame(rows)
    expected = official_gains(frame.loc[frame.index.repeat(counts)])
    found = Regressions(rows)
    for metric, value in expected.items():
        assert found.gain(metric, counts) == pytest.approx(value, abs=1e-10)


def test_a_missing_measure_leaves_a_row_out_of_its_own_regression(
    with_random_surprisals: list[dict[str, Any]],
) -> None:
    rows = [dict(row) for row in with_random_surprisals[:300]]
    for index in range(0, 300, 7):
        rows[index][EYE_TRACKING[index % 4]] = None
        rows[index + 1][SELF_PACED] = None
    expected = official_gains(pd.DataFrame(rows).astype({n: float for n in EYE_TRACKING}))
    found = Regressions(rows)
    for metric, value in expected.items():
        assert found.gain(metric, np.ones(300, np.int64)) == pytest.approx(value, abs=1e-10)


def test_surprisal_that_explains_everything_or_nothing(
    with_random_surprisals: list[dict[str, Any]],
) -> None:
    rows, ones = with_random_surprisals, np.ones(len(with_random_surprisals), np.int64)
    itself = [{**row, "pred": row[SELF_PACED]} for row in rows]
    assert Regressions(itself).gain("self_paced", ones) == pytest.approx(1)
    noise = np.random.default_rng(2).normal(0, 1e-3, len(rows)).tolist()
    known = [{**row, "pred": 2 * row["length"] + x} for row, x in zip(rows, noise, strict=True)]
    assert abs(Regressions(known).gain("self_paced", ones)) < 0.01


def test_the_summary_has_both_scores_with_intervals(
    with_random_surprisals: list[dict[str, Any]], real_csv: Path, llama: Path
) -> None:
    rows = with_random_surprisals[:400]
    task = Reading(read_words(real_csv)[:400], SpanEncoder(llama, True, None), MODES["default"])
    found = task.summary(rows, MODES["default"])
    for metric, value in official_gains(pd.DataFrame(rows)).items():
        estimate = found.metrics[metric]
        assert estimate.value == pytest.approx(value, abs=1e-10)
        assert estimate.low < estimate.high < 0.2 and estimate.stderr > 0
    assert found.items == 400


def test_comparison_takes_the_same_gains(with_random_surprisals: list[dict[str, Any]]) -> None:
    rows = with_random_surprisals[:300]
    other = [{**row, "pred": row["pred"] ** 2} for row in rows]
    ones = np.ones(300, np.int64)
    for metric in METRICS:
        expected = [Regressions(run).gain(metric, ones) for run in (rows, other)]
        assert reading.scored(metric, [rows, other]).value(ones).tolist() == expected
