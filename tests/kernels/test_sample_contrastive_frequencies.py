"""Frequencies of many draws against probabilities computed independently of the reference: tokens
must come as often as the law says, and excluded tokens never."""

from __future__ import annotations

import math

import pytest
import torch

from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import SamplingParams

VOCAB, DRAWS = 32, 50_000
UPPER_NORMAL_QUANTILE = 4.753424  # for 1e-6, the chance that a correct sampler fails one test


def critical_chi_square(degrees: int) -> float:
    """Return the value that chi-square exceeds with probability 1e-6 (Wilson and Hilferty 1931; a
    few per cent too large below 10 degrees of freedom)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + UPPER_NORMAL_QUANTILE * math.sqrt(spread)) ** 3


def assert_frequencies(tokens: torch.Tensor, probability: list[float]) -> None:
    """Test by chi-square over bins of expected count 5 or more; rare tokens share one bin."""
    counts = torch.bincount(tokens, minlength=len(probability)).tolist()
    assert len(counts) == len(probability)
    assert all(count == 0 for count, p in zip(counts, probability, strict=True) if p == 0)
    bins: list[tuple[float, float]] = []
    rare = [0.0, 0.0]
    for count, p in zip(counts, probability, strict=True):
        if p * len(tokens) >= 5:
            bins.append((count, p * len(tokens)))
        else:
            rare = [rare[0] + count, rare[1] + p * len(tokens)]
    if rare[1] >= 5:
        bins.append((rare[0], rare[1]))
    statistic = sum((count - expected) ** 2 / expected for count, expected in bins)
    assert statistic < critical_chi_square(len(bins) - 1)


def softmax(score: dict[int, float]) -> list[float]:
    """Return the probabilities of the vocabulary in fp64, 0 for tokens that have no score."""
    top = max(score.values())
    weight = [math.exp(score[v] - top) if v in score else 0.0 for v in range(VOCAB)]
    return [w / math.fsum(weight) for w in weight]


# GOOD falls from 2 to -1.1, BAD goes up and down: the order of the scores is not that of GOOD.
GOOD = [2.0 - 0.1 * v for v in range(VOCAB)]
BAD = [math.sin(1.7 * v) for v in range(VOCAB)]


def expected_probability(params: SamplingParams) -> list[float]:
    plausible = [
        v for v in range(VOCAB) if not params.alpha or GOOD[v] >= GOOD[0] + math.log(params.alpha)
    ]
    scale = params.temperature
    score = {
        v: (params.good_weight * GOOD[v] - params.bad_weight * BAD[v]) / scale for v in plausible
    }
    ranked = sorted(score, key=lambda v: (-score[v], v))[: params.top_k or None]
    p = softmax({v: score[v] for v in ranked})
    prefix, mass = [], 0.0
    for v in ranked:
        if mass >= params.top_p:
            break
        prefix.append(v)
        mass += p[v]
    return softmax({v: score[v] for v in prefix if p[v] >= params.min_p * p[ranked[0]]})


PARAMETERS = {
    "cd": SamplingParams(),
    "cd-hot": SamplingParams(temperature=1.7),
    "cd-obrien": SamplingParams(1.5, 0.5, alpha=0.2),
    "vanilla": SamplingParams(alpha=0.0, bad_weight=0.0),
    "plausible-only": SamplingParams(bad_weight=0.0),
    "top-k": SamplingParams(alpha=0.0, top_k=6),
    "top-p": SamplingParams(alpha=0.0, top_p=0.7),
    "min-p": SamplingParams(alpha=0.0, min_p=0.2),
    "all-three": SamplingParams(alpha=0.0, top_k=20, top_p=0.8, min_p=0.3),
}


def draws(
    good: list[float],
    bad: list[float],
    params: SamplingParams,
    sequence_ids: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    rows = len(sequence_ids)
    g, b = (torch.tensor([x]).expand(rows, -1) for x in (good, bad))
    return sample_contrastive(
        g, b, params, seed=2024, sequence_ids=sequence_ids, positions=positions
    ).tokens


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("over", ["sequences", "positions"])
def test_frequencies_and_support(instruction_set: str, name: str, over: str) -> None:
    count, fixed = torch.arange(DRAWS), torch.full((DRAWS,), 17)
    ids, positions = (count, fixed) if over == "sequences" else (fixed, count)
    tokens = draws(GOOD, BAD, PARAMETERS[name], ids, positions)
    probability = expected_probability(PARAMETERS[name])
    assert_frequencies(tokens, probability)
    # The rarest kept token is expected more than 40 times, so each must have been drawn.
    assert min(p for p in probability if p) * DRAWS > 40
    assert set(tokens.tolist()) == {v for v, p in enumerate(probability) if p}


@pytest.mark.parametrize("truncation", [{}, {"top_k": 4}])
def test_a_masked_score_lets_masked_tokens_through(truncation: dict[str, int]) -> None:
    """Scores are those of log-probabilities; a constant in the logits must not change them."""
    params = SamplingParams(masked_score=-1.5, **truncation)
    p_good, p_bad = softmax(dict(enumerate(GOOD))), softmax(dict(enumerate(BAD)))
    score = {v: math.log(p_good[v] / p_bad[v]) for v in range(VOCAB)}
    plausible = [v for v in range(VOCAB) if p_good[v] >= 0.1 * p_good[0]]
    kept = sorted(plausible, key=lambda v: -score[v])[: params.top_k or None]
    probability = softmax({v: score[v] if v in kept else -1.5 for v in range(VOCAB)})
    ids, positions = torch.arange(DRAWS), torch.full((DRAWS,), 17)
    for shift in (0.0, 50.0):
        tokens = draws([g + shift for g in GOOD], BAD, params, ids, positions)
        assert_frequencies(tokens, probability)


def test_frequencies_when_tiles_of_noise_are_skipped(instruction_set: str) -> None:
    """Among many equal tokens, random words rule most out before any logarithm is taken."""
    vocab, rows = 4096, 20_000
    good = torch.zeros(1, vocab).expand(rows, -1)
    ids = torch.arange(rows)
    params = SamplingParams(alpha=0.0, bad_weight=0.0)
    tokens = sample_contrastive(good, None, params, seed=5, sequence_ids=ids, positions=ids).tokens
    assert_frequencies(tokens // 64, [64 / vocab] * (vocab // 64))
    assert_frequencies(tokens % 32, [1 / 32] * 32)


@pytest.mark.parametrize("step", [(1, 0), (0, 1), (1, 1), (1 << 32, 0)])
def test_draws_of_neighbours_are_independent(instruction_set: str, step: tuple[int, int]) -> None:
    """Fair coins at coordinates one step apart agree half the time."""
    along = torch.arange(DRAWS + 1)
    ids, positions = along * step[0], along * step[1]
    coins = draws([0.0, 0.0], [0.0, 0.0], SamplingParams(), ids, positions)
    agreements = int((coins[1:] == coins[:-1]).sum())
    assert abs(agreements - DRAWS / 2) < UPPER_NORMAL_QUANTILE * math.sqrt(DRAWS / 4)
