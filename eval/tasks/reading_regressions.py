"""Regressions of reading times on surprisal, as babylm/evaluation-pipeline-2025 fits them
(reading/run.py).

    dR2 = (R2 with surprisal - R2 without) / (1 - R2 without)

with linear regressions on frequency, length, position and their pairwise products; for self-paced
reading, the previous word's length and surprisal join the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cdgen.eval.summary import Prediction

EYE_TRACKING = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound")
SELF_PACED = "self_paced_reading_time"
_PREDICTORS = ("Subtlex_log10", "length", "context_length")
_SPILL_OVER = (*_PREDICTORS, "prev_length", "prev_pred")
MEASURES = (*_PREDICTORS, "prev_length", *EYE_TRACKING, SELF_PACED)  # columns of the data file
METRICS = ("eye_tracking", "self_paced")


class Regressions:
    """The regressions of the reading task, ready to be fitted again under other item counts."""

    def __init__(self, predictions: list[Prediction]) -> None:
        names = (*MEASURES, "pred", "prev_pred")
        columns = {name: np.array([row[name] for row in predictions], float) for name in names}
        self.eye = [_Fit.of(columns, target, _PREDICTORS) for target in EYE_TRACKING]
        self.self_paced = _Fit.of(columns, SELF_PACED, _SPILL_OVER)

    def gain(self, metric: str, counts: np.ndarray) -> float:  # counts [n] int64
        """Return dR2 as a fraction, with word i counted `counts[i]` times: that of self-paced
        reading, or the mean over the four measures of eye tracking."""
        fits = self.eye if metric == "eye_tracking" else [self.self_paced]
        return float(np.mean([fit.gain(counts) for fit in fits]))


@dataclass(frozen=True)
class _Fit:
    """One regression, over the words that lack none of its columns."""

    used: np.ndarray  # [n] bool
    design: np.ndarray  # [words used, terms], the surprisal last
    target: np.ndarray  # [words used]

    @classmethod
    def of(cls, columns: dict[str, np.ndarray], target: str, predictors: tuple[str, ...]) -> _Fit:
        names = (*predictors, "pred")
        used = ~np.isnan(np.stack([columns[name] for name in (*names, target)])).any(0)
        # Centring changes no fit, and keeps products of predictors from being nearly collinear.
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
    """Return R^2 of weighted least squares with an intercept, from the normal equations of columns
    scaled to unit variance."""
    share = weights / weights.sum()
    x, y = design - share @ design, target - share @ target
    x = x / np.sqrt(share @ x**2)
    weighted = x * share[:, None]
    slopes = np.linalg.solve(weighted.T @ x, weighted.T @ y)
    return float(1 - share @ (y - x @ slopes) ** 2 / (share @ y**2))
