"""Comparisons are checked by hand, and against simulated methods whose true difference is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from cdgen.errors import UsageError
from cdgen.eval.statistics.comparison import (
    MethodComparison,
    Scored,
    compare,
    holm,
    macro,
)

GROUPS = np.repeat([0, 1, 2], 40)
WEIGHTS = np.array([0.5, 0.3, 0.2])


def simulated(
    rng: np.random.Generator, seeds: int, seed_noise: float, gain: float
) -> dict[str, np.ndarray]:  # [S, n] each
    """Draw answers that are right if ability exceeds difficulty.

    Items are harder for all, for one method, or for one model; a seed shifts its model's ability,
    and `gain` shifts the abilities of the method "new".
    """
    n = len(GROUPS)
    difficulty = rng.standard_normal(n)

    def answers(ability: float) -> np.ndarray:
        shift = ability + seed_noise * rng.standard_normal((seeds, 1))
        own = 0.5 * rng.standard_normal(n) + 0.5 * rng.standard_normal((seeds, n))
        return (shift + own > difficulty).astype(np.float64)

    return {"base": answers(0.0), "new": answers(gain)}


def true_accuracy(seed_noise: float, gain: float) -> float:
    return float(norm.cdf(gain / (1 + 0.25 + 0.25 + seed_noise**2) ** 0.5))


def compared(answers: dict[str, np.ndarray], resamples: int = 200) -> MethodComparison:
    methods = {name: {"task": macro(values, GROUPS, WEIGHTS)} for name, values in answers.items()}
    return compare(methods, "base", resamples=resamples).against_baseline["new"]


def constant(*scores: float, higher_is_better: bool = True) -> Scored:
    """Return seeds whose scores no draw of items changes."""
    return Scored(
        np.zeros(10, dtype=np.int64), lambda counts: np.array(scores), len(scores), higher_is_better
    )


@pytest.mark.parametrize(
    ("seeds", "seed_noise"),
    [
        pytest.param(1, 0.0, marks=pytest.mark.thorough),
        pytest.param(2, 0.15, marks=pytest.mark.thorough),
        (3, 0.15),
        pytest.param(3, 0.0, marks=pytest.mark.thorough),
        pytest.param(10, 0.15, marks=pytest.mark.thorough),
        (10, 0.0),
    ],
)
def test_one_true_null_in_twenty_is_rejected(seeds: int, seed_noise: float) -> None:
    """The rate holds to within three standard errors of 400 trials. If seeds do not differ in
    ability, only their disagreement on items is left, which must not count twice."""
    rng = np.random.default_rng(seeds)
    p = [compared(simulated(rng, seeds, seed_noise, 0.0)).tasks["task"].p for _ in range(400)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08


@pytest.mark.parametrize(
    ("seeds", "seed_noise"),
    [
        pytest.param(1, 0.0, marks=pytest.mark.thorough),
        (3, 0.15),
        pytest.param(10, 0.15, marks=pytest.mark.thorough),
    ],
)
def test_coverage_of_differences(seeds: int, seed_noise: float) -> None:
    """Intervals cover the difference in accuracy and its ratio to the baseline's true 0.5."""
    rng = np.random.default_rng(100 + seeds)
    truth = true_accuracy(seed_noise, 0.4) - 0.5
    covered = []
    for _ in range(400):
        result = compared(simulated(rng, seeds, seed_noise, 0.4))
        difference, relative = result.tasks["task"].difference, result.mean_relative
        covered.append(
            (
                difference.low <= truth <= difference.high,
                relative.low <= truth / 0.5 <= relative.high,
            )
        )
    assert np.all(np.mean(covered, axis=0) >= 0.92)
    assert np.all(np.mean(covered, axis=0) <= 0.98)


def test_training_without_seeds_is_not_covered() -> None:
    """Seeds shift ability, but only one of each method was trained: the items alone reject far too
    often, as `covers_training` warns."""
    rng = np.random.default_rng(0)
    results = [compared(simulated(rng, 1, 0.5, 0.0)) for _ in range(100)]
    assert not any(result.covers_training for result in results)
    assert all(result.tasks["task"].seed_share is None for result in results)
    assert np.mean([result.tasks["task"].p <= 0.05 for result in results]) > 0.2


def test_a_large_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    results = [compared(simulated(rng, 10, 0.15, 1.0)) for _ in range(30)]
    assert all(result.covers_training for result in results)
    assert all(result.tasks["task"].p <= 0.05 for result in results)
    assert all(result.tasks["task"].difference.low > 0 for result in results)


def test_seed_share_tells_seeds_from_items() -> None:
    """At first the seeds of "new" differ only in ability; then the methods differ in which items
    they get right."""
    rng = np.random.default_rng(2)
    base = np.tile(rng.random(120), (4, 1))
    shifted = base + np.array([[0.0], [0.1], [0.2], [0.3]])
    assert compared({"base": base, "new": shifted}).tasks["task"].seed_share == pytest.approx(1)
    other = np.tile(rng.random(120), (4, 1)) + np.array([[0.0], [1e-4], [2e-4], [3e-4]])
    share = compared({"base": base, "new": other}).tasks["task"].seed_share
    assert share is not None and 0 < share < 0.01


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_answers_differ_by_exactly_nothing(seeds: int) -> None:
    """Both methods are scored on the same draws of items."""
    answers = np.tile(np.random.default_rng(3).random(120), (seeds, 1))
    result = compared({"base": answers, "new": answers})
    task = result.tasks["task"]
    assert (task.difference.value, task.relative, task.p, task.p_holm) == (0, 0, 1, 1)
    assert (task.difference.low, task.difference.high) == pytest.approx((0, 0), abs=1e-12)
    assert result.mean_relative.value == 0


def test_a_rounded_mean_is_no_difference() -> None:
    assert np.mean([0.1, 0.1, 0.1]) != 0.1
    methods = {"base": {"x": constant(0.1)}, "new": {"x": constant(0.1, 0.1, 0.1)}}
    task = compare(methods, "base", resamples=10).against_baseline["new"].tasks["x"]
    assert (task.difference.value, task.p) == (0, 1)


def test_holm_by_hand() -> None:
    """The adjusted values are 4 x 0.005, 3 x 0.01, 2 x 0.03, then 1 x 0.04 raised to the one
    before."""
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.7, "b": 0.6}) == {"a": 1.0, "b": 1.0}


def test_mean_relative_by_hand() -> None:
    """Accuracy from 0.5 to 0.6 is 20 % better, perplexity from 20 to 18 is 10 % better: 15 %."""
    methods = {
        "base": {"blimp": constant(0.5), "perplexity": constant(20.0, higher_is_better=False)},
        "new": {"blimp": constant(0.6), "perplexity": constant(18.0, higher_is_better=False)},
    }
    result = compare(methods, "base", resamples=10).against_baseline["new"]
    assert result.mean_relative.value == pytest.approx(0.15)
    assert result.tasks["perplexity"].relative == pytest.approx(0.1)
    assert result.tasks["perplexity"].difference.value == pytest.approx(-2)
    only = compare(methods, "base", resamples=10, relative_over=["blimp"]).against_baseline["new"]
    assert only.mean_relative.value == pytest.approx(0.2)
    assert only.tasks["perplexity"].relative == pytest.approx(0.1)


def test_a_ratio_is_as_uncertain_as_its_baseline() -> None:
    """d(x / b) = -x / b^2 db makes it 0.75 / 0.25 times the baseline's standard error of 0.1."""
    methods = {"base": {"x": constant(0.4, 0.6)}, "new": {"x": constant(0.75, 0.75)}}
    result = compare(methods, "base", resamples=10).against_baseline["new"]
    assert result.tasks["x"].difference.stderr == pytest.approx(0.1)
    assert result.mean_relative.stderr == pytest.approx(0.3)


def test_a_seed_is_the_same_model_in_every_task() -> None:
    """If seeds err alike in two tasks, the mean over both is no more certain than one; if they err
    in opposite directions, it is exact."""
    base = {"x": constant(0.5, 0.5), "y": constant(0.5, 0.5)}
    alike = {"x": constant(0.6, 0.8), "y": constant(0.6, 0.8)}
    opposed = {"x": constant(0.6, 0.8), "y": constant(0.8, 0.6)}
    result = compare({"base": base, "alike": alike, "opposed": opposed}, "base", resamples=50)
    # Standard deviation 0.2 / sqrt(2) of the relative changes 0.2 and 0.6 is 0.2828; over sqrt(2).
    assert result.against_baseline["alike"].mean_relative.stderr == pytest.approx(0.2)
    assert result.against_baseline["opposed"].mean_relative.stderr == pytest.approx(0, abs=1e-9)


def perplexity(losses: np.ndarray) -> Scored:  # [S, n] nats of items of equal length
    return Scored(
        np.zeros(losses.shape[1], dtype=np.int64),
        lambda counts: np.exp(losses @ counts / counts.sum()),
        len(losses),
        higher_is_better=False,
    )


def test_perplexity_needs_no_mean() -> None:
    rng = np.random.default_rng(4)
    losses = 3 + 0.5 * rng.standard_normal(200) + 0.01 * rng.standard_normal((4, 1))
    methods = {"base": {"ppl": perplexity(losses)}, "new": {"ppl": perplexity(losses - 0.05)}}
    comparison = compare(methods, "base", resamples=300)
    score = comparison.scores["base"]["ppl"]
    assert score.value == pytest.approx(np.exp(losses.mean(axis=1)).mean())
    assert score.low < score.value < score.high
    task = comparison.against_baseline["new"].tasks["ppl"]
    assert task.relative == pytest.approx(1 - np.exp(-0.05))
    # Each score is uncertain by 4 % through its items, but both by the same ones.
    assert task.difference.stderr < score.stderr / 2
    assert task.difference.high < 0 and task.p < 0.05


def test_a_task_is_judged_the_same_whatever_else_is_compared() -> None:
    rng = np.random.default_rng(5)
    answers = simulated(rng, 3, 0.2, 0.3)
    alone = {name: {"task": macro(values, GROUPS, WEIGHTS)} for name, values in answers.items()}
    among = {name: {"first": constant(0.5, 0.6, 0.7), **tasks} for name, tasks in alone.items()}
    among["third"] = among["new"]
    one = compare(alone, "base", resamples=100).against_baseline["new"].tasks["task"]
    of_two = compare(among, "base", resamples=100).against_baseline["new"].tasks["task"]
    assert replace(of_two, p_holm=one.p_holm) == one
    assert of_two.p_holm == pytest.approx(min(1, 2 * one.p))


def test_the_order_of_items_does_not_matter() -> None:
    answers = simulated(np.random.default_rng(6), 3, 0.2, 0.3)
    order = np.random.default_rng(7).permutation(len(GROUPS))

    def difference(order: np.ndarray) -> np.ndarray:
        methods = {
            name: {"task": macro(values[:, order], GROUPS[order], WEIGHTS)}
            for name, values in answers.items()
        }
        found = compare(methods, "base").against_baseline["new"].tasks["task"].difference
        return np.array([found.value, found.low, found.high])

    before, after = difference(np.arange(len(GROUPS))), difference(order)
    assert after[0] == pytest.approx(before[0])
    assert after == pytest.approx(before, abs=0.01)  # other draws: limits 0.15 apart, within 1 / 15


def test_draws_are_reproducible() -> None:
    answers = simulated(np.random.default_rng(8), 2, 0.2, 0.3)
    assert compared(answers) == compared(answers)


def test_methods_that_cannot_be_compared_are_refused() -> None:
    task = macro(np.ones((2, 120)), GROUPS, WEIGHTS)
    swapped = macro(np.ones((2, 120)), GROUPS[::-1], WEIGHTS)
    one_seed = macro(np.ones((1, 120)), GROUPS, WEIGHTS)
    undefined = replace(task, value=lambda counts: np.array([0.5, np.nan]))
    miscounted = replace(task, seeds=3)
    for methods, message in (
        ({"new": {"x": task}}, r"baseline: expected one of \['new'\], got 'base'"),
        ({"base": {"x": task}, "new": {"y": task}}, r"new: expected base's tasks \['x'\], got"),
        ({"base": {"x": task}, "new": {"x": swapped}}, "new, x: expected the 120 items of base"),
        ({"base": {"x": task, "y": one_seed}}, "base: expected the same seeds in every task"),
        ({"base": {"x": task}, "new": {"x": undefined}}, "new, x: expected a finite score"),
        ({"base": {"x": task}, "new": {"x": miscounted}}, "new, x: .* each of 3 seeds"),
    ):
        with pytest.raises(UsageError, match=message):
            compare(methods, "base", resamples=2)


def test_a_relative_change_needs_a_baseline_above_zero() -> None:
    methods = {
        "base": {"rho": constant(0.0), "blimp": constant(0.5)},
        "new": {"rho": constant(0.1), "blimp": constant(0.6)},
    }
    with pytest.raises(UsageError, match=r"base, rho: .* above 0, got 0; leave the task out"):
        compare(methods, "base", resamples=2)
    result = compare(methods, "base", resamples=2, relative_over=["blimp"]).against_baseline["new"]
    assert result.tasks["rho"].relative is None
    assert result.mean_relative.value == pytest.approx(0.2)
    with pytest.raises(UsageError, match=r"relative_over: expected some of \['blimp', 'rho'\]"):
        compare(methods, "base", resamples=2, relative_over=["glue"])
    result = compare(methods, "base", resamples=2, relative_over=[]).against_baseline["new"]
    assert result.mean_relative is None


def test_p_values_of_mean_changes_allow_for_the_number_of_methods() -> None:
    """One method of four differs; the more are tried, the less a small p-value says."""
    rng = np.random.default_rng(0)
    answers = {name: (rng.random((3, 120)) < 0.5).astype(float) for name in "abcd"}
    answers["new"] = (rng.random((3, 120)) < 0.72).astype(float)
    methods = {name: {"x": macro(values, GROUPS, WEIGHTS)} for name, values in answers.items()}
    means = {n: c.mean_relative for n, c in compare(methods, "a").against_baseline.items()}
    assert all(mean is not None for mean in means.values())
    p = {name: mean.p for name, mean in means.items() if mean}
    assert {name: mean.p_holm for name, mean in means.items() if mean} == holm(p)
    assert min(p, key=p.__getitem__) == "new" and p["new"] < 0.05
