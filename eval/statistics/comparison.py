"""Comparison of methods with a baseline: differences, p-values, and the share of training noise.

Methods are compared on the same draws of the same items, so whatever makes an item hard for both
cancels. The seeds of different methods are independent. The formula of the variance is at the top
of `cdgen.eval.statistics.intervals`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TypeVar

import numpy as np

from cdgen.errors import UsageError
from cdgen.eval.statistics.intervals import Estimate, Runs, Spread, Strata, spread_of_sum

# A mean of equal scores may be off by a relative 1e-16; one item in a million changes far more.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Scored:
    """One method's runs (seeds) of one task."""

    strata: np.ndarray  # [n] int64: items are drawn within these
    value: Callable[[np.ndarray], np.ndarray]  # counts of the items [n] -> scores [seeds]
    seeds: int
    higher_is_better: bool = True


def macro(
    values: np.ndarray,  # [seeds, n] float64 credits
    groups: np.ndarray,  # [n] int64 in 0..G-1
    weights: np.ndarray,  # [G] float64, summing to 1
) -> Scored:
    """Return runs scored by the weighted mean over groups of the means of their items."""

    def value(counts: np.ndarray) -> np.ndarray:
        drawn = np.bincount(groups, counts, len(weights))
        share = counts * (weights / drawn)[groups]
        # Not `@`: on shared cores, BLAS's threads wait a hundred times as long as they work.
        return np.einsum("sn,n->s", values, share)

    return Scored(groups, value, len(values))


@dataclass(frozen=True)
class TaskComparison:
    """A method and the baseline compared in one task."""

    difference: Estimate  # method - baseline, in the task's own unit and direction
    relative: float | None  # difference / baseline, positive if better; None if baseline <= 0
    p: float  # two-sided
    p_holm: float  # adjusted for the number of tasks
    seed_share: float | None  # seeds' share of the difference's variance; None as in `Spread`


@dataclass(frozen=True)
class MeanRelative(Estimate):
    """mu_dREL of a method, as a fraction."""

    p: float  # two-sided
    p_holm: float  # adjusted for the number of methods
    seed_share: float | None  # as in `TaskComparison`


@dataclass(frozen=True)
class MethodComparison:
    tasks: dict[str, TaskComparison]
    mean_relative: MeanRelative | None  # None if no task is averaged
    covers_training: bool  # False if a side has one seed: only the items' variance is known


@dataclass(frozen=True)
class Comparison:
    scores: dict[str, dict[str, Estimate]]  # method -> task -> score
    against_baseline: dict[str, MethodComparison]


def compare(
    methods: Mapping[str, Mapping[str, Scored]],
    baseline: str,
    seed: int = 0,
    resamples: int = 1000,
    relative_over: Sequence[str] | None = None,
) -> Comparison:
    """Compare methods[name][task] with the baseline's; one draw of items serves all methods.

    `relative_over` names the tasks that mu_dREL averages, by default all. Raises UsageError if
    methods do not share tasks and items, or if a relative change is undefined.
    """
    _require_shared_items(methods, baseline)
    by_task = {
        task: _draw(task, {name: of[task] for name, of in methods.items()}, seed, resamples)
        for task in methods[baseline]
    }
    runs = {name: {task: drawn[name] for task, drawn in by_task.items()} for name in methods}
    counted = list(by_task if relative_over is None else relative_over)
    _require_relative(baseline, runs[baseline], counted)
    signs = {task: 1 if of.higher_is_better else -1 for task, of in methods[baseline].items()}
    others = {name: own for name, own in runs.items() if name != baseline}
    means = _mean_relatives(others, runs[baseline], signs, counted) if counted else {}
    return Comparison(
        scores={name: _scores(own) for name, own in runs.items()},
        against_baseline={
            name: _against(own, runs[baseline], signs, means.get(name))
            for name, own in others.items()
        },
    )


def _require_shared_items(methods: Mapping[str, Mapping[str, Scored]], baseline: str) -> None:
    if baseline not in methods:
        raise UsageError(f"baseline: expected one of {sorted(methods)}, got {baseline!r}")
    first = methods[baseline]
    for name, scored in methods.items():
        if scored.keys() != first.keys():
            raise UsageError(
                f"{name}: expected {baseline}'s tasks {sorted(first)}, got {sorted(scored)}"
            )
        seeds = {task: of.seeds for task, of in scored.items()}
        if len(set(seeds.values())) > 1:
            raise UsageError(f"{name}: expected the same seeds in every task, got {seeds}")
        for task, of in scored.items():
            if not np.array_equal(of.strata, first[task].strata):
                raise UsageError(
                    f"{name}, {task}: expected the {len(first[task].strata)} items of {baseline}, "
                    f"in its order, got {len(of.strata)} with other strata"
                )


def _draw(task: str, scored: Mapping[str, Scored], seed: int, resamples: int) -> dict[str, Runs]:
    """Score each method's runs of a task on all items, then on the same draws of them."""
    strata = next(iter(scored.values())).strata
    sampler = Strata.of(strata)
    rng = np.random.default_rng([seed, *task.encode()])  # independent of the other tasks
    every = np.ones(len(strata), dtype=np.int64)
    samples = chain([every], (sampler.draw(rng) for _ in range(resamples)))
    rows = [[of.value(counts) for of in scored.values()] for counts in samples]
    runs = {}
    for index, (name, of) in enumerate(scored.items()):
        scores = np.array([row[index] for row in rows])
        if scores.shape[1:] != (of.seeds,) or not np.isfinite(scores).all():
            raise UsageError(
                f"{name}, {task}: expected a finite score of each of {of.seeds} seeds for every "
                f"draw of items, got shape {scores.shape[1:]}, {np.sum(~np.isfinite(scores))} not "
                "finite"
            )
        runs[name] = Runs(scores[0], scores[1:], len(strata))
    return runs


def _require_relative(baseline: str, base: Mapping[str, Runs], counted: Sequence[str]) -> None:
    if not base.keys() >= set(counted):
        raise UsageError(f"relative_over: expected some of {sorted(base)}, got {counted}")
    for task in counted:
        if base[task].score <= 0:
            raise UsageError(
                f"{baseline}, {task}: a relative change needs a baseline score above 0, got "
                f"{base[task].score:.6g}; leave the task out of relative_over"
            )


def _scores(own: Mapping[str, Runs]) -> dict[str, Estimate]:
    return {task: spread_of_sum([of]).around(of.score) for task, of in own.items()}


def _against(
    own: Mapping[str, Runs],
    base: Mapping[str, Runs],
    signs: Mapping[str, int],
    mean_relative: MeanRelative | None,
) -> MethodComparison:
    differences = {task: _difference(own[task].score, base[task].score) for task in own}
    spreads = {task: spread_of_sum([own[task], base[task].times(-1)]) for task in own}
    p = {task: spread.p(differences[task]) for task, spread in spreads.items()}
    adjusted = holm(p)
    return MethodComparison(
        tasks={
            task: TaskComparison(
                difference=spread.around(differences[task]),
                relative=_relative(own[task], base[task], signs[task]),
                p=p[task],
                p_holm=adjusted[task],
                seed_share=spread.seed_share,
            )
            for task, spread in spreads.items()
        },
        mean_relative=mean_relative,
        covers_training=all(len(of.full) > 1 for side in (own, base) for of in side.values()),
    )


def _difference(score: float, base: float) -> float:
    difference = score - base
    return 0.0 if abs(difference) <= _ROUNDING * abs(base) else difference


def _relative(own: Runs, base: Runs, sign: int) -> float | None:
    return sign * _difference(own.score, base.score) / base.score if base.score > 0 else None


def _mean_relatives(
    others: Mapping[str, Mapping[str, Runs]],
    base: Mapping[str, Runs],
    signs: Mapping[str, int],
    counted: Sequence[str],
) -> dict[str, MeanRelative]:
    """Return mu_dREL of each method, their p-values adjusted for the number of methods."""
    found = {name: _mean_relative(own, base, signs, counted) for name, own in others.items()}
    p = {name: spread.p(value) for name, (value, spread) in found.items()}
    adjusted = holm(p)
    return {
        name: MeanRelative(
            **asdict(spread.around(value)),
            p=p[name],
            p_holm=adjusted[name],
            seed_share=spread.seed_share,
        )
        for name, (value, spread) in found.items()
    }


def _mean_relative(
    own: Mapping[str, Runs],
    base: Mapping[str, Runs],
    signs: Mapping[str, int],
    counted: Sequence[str],
) -> tuple[float, Spread]:
    """Return mu_dREL, the mean over tasks of sign (x - b) / b, and its spread.

    The spread is taken to first order in x and b: among ratios of draws, the few whose b comes near
    0 would dominate the variance.
    """
    value, gains, losses = 0.0, [], []
    for task in counted:
        x, b = own[task].score, base[task].score
        share = signs[task] / len(counted)
        value += share * _difference(x, b) / b
        gains.append(own[task].times(share / b))
        losses.append(base[task].times(-share * x / b**2))
    return value, spread_of_sum([_total(gains), _total(losses)])


def _total(tasks: Sequence[Runs]) -> Runs:
    """Sum runs over tasks: a seed is the same model in all of them; each task has its own draws."""
    full = np.sum([of.full for of in tasks], axis=0)
    return Runs(full, np.sum([of.drawn for of in tasks], axis=0), min(of.items for of in tasks))


_Name = TypeVar("_Name", bound=Hashable)


def holm(p: Mapping[_Name, float]) -> dict[_Name, float]:
    """Adjust p-values (Holm 1979): the i-th smallest of m is multiplied by m - i + 1, and is then
    at least the one before it and at most 1."""
    adjusted: dict[_Name, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        highest = max(highest, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = highest
    return adjusted
