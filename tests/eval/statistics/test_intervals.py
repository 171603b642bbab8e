"""Intervals agree with closed forms, and cover the true value in as many simulated samples as they
claim."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, spearmanr, t

from cdgen.errors import UsageError
from cdgen.eval.statistics.intervals import (
    Estimate,
    Runs,
    Strata,
    mean_of_groups,
    resampled,
    spread_of_sum,
)


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize(("right", "size"), [(0, 5), (3, 7), (50, 100), (99, 100), (100, 100)])
def test_one_group_has_wilsons_interval(right: int, size: int) -> None:
    values = np.repeat([1.0, 0.0], [right, size - right])
    estimate = mean_of_groups(values, np.zeros(size, dtype=np.int64), np.ones(1))
    expected = binomtest(right, size).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_value_and_stderr_by_hand() -> None:
    """The means are 2/3 and 1/2, the sample variances 1/3 over 3 items and 1/6 over 4."""
    values = np.array([1.0, 0.5, 1.0, 0.0, 0.0, 0.5, 1.0])
    groups = np.array([0, 1, 0, 1, 0, 1, 1])
    estimate = mean_of_groups(values, groups, np.array([0.25, 0.75]))
    assert estimate.value == pytest.approx(0.25 * 2 / 3 + 0.75 / 2)
    assert estimate.stderr**2 == pytest.approx(1 / 16 * 1 / 9 + 9 / 16 * 1 / 24)


def test_groups_that_are_all_right_are_as_good_as_one() -> None:
    many = mean_of_groups(np.ones(60), np.repeat(np.arange(3), 20), np.full(3, 1 / 3))
    one = mean_of_groups(np.ones(60), np.zeros(60, dtype=np.int64), np.ones(1))
    assert many.low == pytest.approx(one.low) and many.low < 0.95
    assert (many.value, many.high, many.stderr) == (1.0, 1.0, 0.0)


def coverage_of_mean(
    credit: Callable[[np.random.Generator, np.ndarray], np.ndarray],
    truths: np.ndarray,  # [G]
    size: int,
) -> float:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(len(truths)), size)
    weights = np.full(len(truths), 1 / len(truths))
    estimates = [mean_of_groups(credit(rng, truths[groups]), groups, weights) for _ in range(3000)]
    return float(np.mean([holds(estimate, truths.mean()) for estimate in estimates]))


def right_or_wrong(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return (rng.random(len(truth)) < truth).astype(np.float64)


def half_tied(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return (right_or_wrong(rng, truth) + right_or_wrong(rng, truth)) / 2


TRUTHS = {
    "0.5": lambda groups: np.full(groups, 0.5),
    "0.9": lambda groups: np.full(groups, 0.9),
    "0.99": lambda groups: np.full(groups, 0.99),
    "0.4 to 1": lambda groups: np.linspace(0.4, 1.0, groups),
}


@pytest.mark.parametrize("truth", [0.5, 0.7, 0.9, 0.97, 0.99])
def test_exact_coverage_of_the_mean_of_one_group(truth: float) -> None:
    covered = 0.0
    for right, probability in enumerate(binom.pmf(np.arange(901), 900, truth)):
        values = np.repeat([1.0, 0.0], [right, 900 - right])
        estimate = mean_of_groups(values, np.zeros(900, dtype=np.int64), np.ones(1))
        covered += probability * holds(estimate, truth)
    assert 0.935 <= covered <= 0.965


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize(("groups", "size"), [(5, 100), (67, 20), (67, 100)])
def test_coverage_of_the_mean(groups: int, size: int, truth: str) -> None:
    assert 0.93 <= coverage_of_mean(right_or_wrong, TRUTHS[truth](groups), size) <= 0.975


def test_ties_make_the_interval_of_the_mean_wider_than_need_be() -> None:
    """Two independent halves have half the variance of one whole credit: 2.77 standard errors."""
    assert coverage_of_mean(half_tied, np.full(5, 0.7), 100) > 0.985


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 3)), min_size=1, max_size=40
    ),
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
)
def test_the_interval_of_the_mean_is_sound(
    items: list[tuple[float, int]], raw_weights: list[float]
) -> None:
    """It holds the value, stays in [0, 1], is mirrored if right and wrong are swapped, and is never
    empty, even if all answers are right."""
    credits, labels = (np.array(column) for column in zip(*items, strict=True))
    _, groups = np.unique(labels, return_inverse=True)
    weights = np.array(raw_weights[: groups.max() + 1])
    weights /= weights.sum()
    estimate = mean_of_groups(credits, groups, weights)
    assert 0 <= estimate.low <= estimate.value + 1e-12 <= estimate.high + 2e-12 <= 1 + 4e-12
    assert estimate.high - estimate.low > 0
    mirrored = mean_of_groups(1 - credits, groups, weights)
    assert 1 - mirrored.low == pytest.approx(estimate.high, abs=1e-9)
    shuffled = np.random.default_rng(0).permutation(len(credits))
    again = mean_of_groups(credits[shuffled], groups[shuffled], weights)
    assert again.low == pytest.approx(estimate.low, abs=1e-9)


@pytest.mark.parametrize(
    ("values", "groups", "weights", "message"),
    [
        ([1.0], [0, 0], [1.0], "groups: expected shape"),
        ([1.5, 0.0], [0, 0], [1.0], "values: expected credits in"),
        ([float("nan"), 0.0], [0, 0], [1.0], "values: expected credits in"),
        ([1.0, 0.0], [0, 0], [0.5], "weights: expected a sum of 1, got 0.5"),
        ([1.0, 0.0], [0, 0], [0.5, 0.5], r"each of 0\.\.1, got \[0\]"),
        ([1.0, 0.0], [0, 2], [0.5, 0.5], r"each of 0\.\.1, got \[0, 2\]"),
    ],
)
def test_unusable_groups_are_refused(
    values: list[float], groups: list[int], weights: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mean_of_groups(np.array(values), np.array(groups), np.array(weights))


def test_draws_stay_within_strata_and_are_uniform_there() -> None:
    labels = np.array([7, 2, 7, 2, 7, 9, 9, 2, 7, 2])
    sampler, rng = Strata.of(labels), np.random.default_rng(0)
    draws = np.array([sampler.draw(rng) for _ in range(20_000)])
    for label in (2, 7, 9):
        assert (draws[:, labels == label].sum(axis=1) == np.sum(labels == label)).all()
    sizes = np.array([np.sum(labels == label) for label in labels])
    # Binomial(m, 1/m): mean 1, variance 1 - 1/m; five standard errors of 20,000 draws.
    assert draws.mean(axis=0) == pytest.approx(np.ones(10), abs=0.035)
    assert draws.var(axis=0) == pytest.approx(1 - 1 / sizes, abs=0.06)


def test_a_stratum_of_one_item_is_refused() -> None:
    with pytest.raises(UsageError, match="two items or more in each, got one in 5"):
        Strata.of(np.array([3, 5, 3]))


def test_resampling_a_mean_finds_its_stderr() -> None:
    values = np.random.default_rng(1).random(300)
    estimate = resampled(lambda counts: counts @ values / 300, np.zeros(300, dtype=int), seed=0)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.stderr == pytest.approx(values.std() / 300**0.5, rel=0.1)
    assert estimate == resampled(
        lambda counts: counts @ values / 300, np.zeros(300, dtype=int), seed=0
    )


def spearman(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the rho of continuous x and y [n] as a function of counts [n]; copies of an item share
    their middle rank."""
    orders = np.array([np.argsort(x), np.argsort(y)])

    def rho(counts: np.ndarray) -> float:
        copies = counts[orders]
        ranks = np.empty(orders.shape)
        np.put_along_axis(ranks, orders, copies.cumsum(axis=1) - (copies - 1) / 2, axis=1)
        ranks -= (ranks @ counts / counts.sum())[:, None]
        (xx, xy), (_, yy) = ranks * counts @ ranks.T
        return float(xy / (xx * yy) ** 0.5)

    return rho


@pytest.mark.thorough
def test_coverage_of_resampled_spearman() -> None:
    """x and y are normal with correlation r = 0.6, so rho is 6 / pi * arcsin(r / 2)."""
    rng = np.random.default_rng(2)
    strata = np.zeros(200, dtype=np.int64)
    truth = 6 / np.pi * np.arcsin(0.3)
    covered = []
    for seed in range(400):
        x, noise = rng.standard_normal((2, 200))
        rho = spearman(x, 0.6 * x + 0.8 * noise)
        covered.append(holds(resampled(rho, strata, seed, resamples=200), truth))
    assert 0.92 <= np.mean(covered) <= 0.98


def test_spearman_of_counts_is_spearman_of_copies() -> None:
    x, y = np.random.default_rng(3).standard_normal((2, 20))
    counts = Strata.of(np.zeros(20, dtype=np.int64)).draw(np.random.default_rng(4))
    expected = spearmanr(np.repeat(x, counts), np.repeat(y, counts)).statistic
    assert spearman(x, y)(counts) == pytest.approx(expected)


def test_a_statistic_undefined_in_some_draws_is_refused() -> None:
    with pytest.raises(UsageError, match=r"finite values, got [1-9][0-9]* others in 100 resamples"):
        resampled(
            lambda counts: float("nan") if counts[0] == 0 else 1.0,
            np.zeros(4, dtype=int),
            seed=0,
            resamples=100,
        )


def test_without_item_noise_the_spread_is_welchs() -> None:
    """No draw changes the scores of the two methods: the interval is Welch's for a difference of
    means."""
    a, b = np.array([0.5, 0.7, 0.6]), np.array([0.1, 0.2, 0.4, 0.3, 0.1])
    parts = [Runs(x, np.tile(x, (1999, 1)), items=100) for x in (a, -b)]
    spread = spread_of_sum(parts)
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 5
    df = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 4)
    assert (spread.variance, spread.freedom) == pytest.approx((va + vb, df))
    assert spread.seed_share == pytest.approx(1)
    half = t.ppf(0.975, df) * (va + vb) ** 0.5
    estimate = spread.around(0.38)
    assert (estimate.low, estimate.high) == pytest.approx((0.38 - half, 0.38 + half), rel=1e-2)
    assert spread.p(half * 1.01) < 0.05 < spread.p(half * 0.99)
    assert spread.p(0.0) == 1


def test_what_seeds_disagree_on_counts_once() -> None:
    """Draws of items move four seeds together by 0.02, and each of them by a further 0.1. The
    seeds' scores on all items already include the latter, so only 0.02^2 is added to their
    variance."""
    rng = np.random.default_rng(0)
    full = np.array([0.3, 0.5, 0.4, 0.6])
    together, own = 0.02 * rng.standard_normal((20_000, 1)), 0.1 * rng.standard_normal((20_000, 4))
    spread = spread_of_sum([Runs(full, full + together + own, items=100)])
    of_seeds = full.var(ddof=1) / 4
    assert spread.variance == pytest.approx(of_seeds + 0.02**2, abs=5e-5)
    assert spread.deviations.var() == pytest.approx(spread.variance, rel=0.02)
    assert spread.seed_share == pytest.approx(of_seeds / (of_seeds + 0.02**2), rel=0.02)
