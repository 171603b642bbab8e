"""A row's draw depends on its own logits and coordinates alone: not on its place in memory, its
neighbours, the threads, or rows beside it that cannot be sampled."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cdgen.kernels.sample_contrastive import sample_contrastive
from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams

INF = math.inf
CD = SamplingParams(top_k=50, top_p=0.95)
DENSE = SamplingParams(alpha=0.0, top_p=0.9)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def draw(
    good: torch.Tensor,
    bad: torch.Tensor | None,
    params: SamplingParams = CD,
    sequence_ids: torch.Tensor | None = None,
    backend: str = "cpu",
    **arguments: Any,
) -> SampleOutput:
    """Draw with row r as sequence r, unless `sequence_ids` differs, at position 3 times its id."""
    ids = torch.arange(len(good)) if sequence_ids is None else sequence_ids
    return sample_contrastive(
        good, bad, params, seed=9, sequence_ids=ids, positions=3 * ids, backend=backend, **arguments
    )


def logits(rows: int, vocab: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    good, bad = torch.randn(2, rows, vocab, generator=generator)
    return 2 * good, bad


def columns(out: SampleOutput, rows: Any = slice(None)) -> list[list[int]]:
    return [x[rows].tolist() for x in (out.tokens, out.status, out.plausible, out.kept)]


def same(a: SampleOutput, b: SampleOutput) -> None:
    assert columns(a) == columns(b)


# Memory.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [333, 2300])
def test_rows_may_lie_any_distance_apart(
    instruction_set: str, vocab: int, dtype: torch.dtype
) -> None:
    good, bad = (x.to(dtype) for x in logits(6, vocab))
    expected = draw(good, bad)
    wide_good = torch.full((12, vocab + 668), math.nan, dtype=dtype)
    wide_bad = torch.full((6, vocab + 2), math.nan, dtype=dtype)
    wide_good[::2, 5 : vocab + 5], wide_bad[:, 1 : vocab + 1] = good, bad
    same(draw(wide_good[::2, 5 : vocab + 5], wide_bad[:, 1 : vocab + 1]), expected)


def test_one_row_may_stand_for_all(instruction_set: str) -> None:
    good, bad = logits(1, 333)
    expanded = draw(good.expand(8, -1), bad.expand(8, -1))
    same(expanded, draw(good.repeat(8, 1), bad.repeat(8, 1)))
    assert len(set(expanded.tokens.tolist())) > 1


def test_overlapping_rows(instruction_set: str) -> None:
    good, bad = (x.flatten().as_strided((9, 100), (7, 1)) for x in logits(1, 156))
    same(draw(good, bad), draw(good.contiguous(), bad.contiguous()))


def test_rows_beyond_2_to_the_31_elements(instruction_set: str) -> None:
    """Only the rows written take memory: untouched pages of an anonymous mapping do not."""
    vocab, distance = 1000, 2**31 + 8
    pages = mmap.mmap(-1, 2 * (distance + vocab), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    far = torch.frombuffer(pages, dtype=torch.bfloat16).as_strided((2, vocab), (distance, 1))
    near, bad = (x.bfloat16() for x in logits(2, vocab))
    far.copy_(near)
    for params in (CD, DENSE):
        same(draw(far, bad, params), draw(near, bad, params))
        same(draw(bad, far, params), draw(bad, near, params))


def test_padding_columns_are_never_read(instruction_set: str) -> None:
    good, bad = logits(6, 333)
    for poison in (math.nan, INF, 99.0):
        padding = torch.full((6, 51), poison)
        padded = [torch.cat([x, padding], dim=1) for x in (good, bad)]
        same(draw(padded[0], padded[1], vocab_size=333), draw(good, bad))
        same(draw(padded[0], bad, vocab_size=333), draw(good, bad))


def test_coordinates_may_be_strided(instruction_set: str) -> None:
    good, bad = logits(6, 333)
    ids = torch.arange(12).flip(0)
    strided = draw(good, bad, sequence_ids=ids[::2])
    same(strided, draw(good, bad, sequence_ids=ids[::2].clone()))


def test_inputs_are_left_as_they_were(instruction_set: str) -> None:
    good, bad = logits(6, 333)
    before = good.clone(), bad.clone()
    draw(good, bad)
    assert torch.equal(good, before[0]) and torch.equal(bad, before[1])


# Neighbours, place and threads.


@pytest.mark.parametrize("params", [CD, DENSE], ids=["cd", "dense"])
def test_order_batch_and_threads_change_no_bit(
    instruction_set: str,
    params: SamplingParams,
    one_and_two_threads: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    good, bad = logits(37, 5000)
    ids = torch.arange(37) * 5
    one, two = one_and_two_threads(lambda: draw(good, bad, params, ids))
    same(one, two)
    shuffle = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    shuffled = draw(good[shuffle], bad[shuffle], params, ids[shuffle])
    assert columns(shuffled) == columns(one, shuffle)
    for row in (0, 17, 36):
        at = slice(row, row + 1)
        assert columns(draw(good[at], bad[at], params, ids[at])) == columns(one, at)


def test_scratch_from_a_larger_call_does_not_reach_a_smaller_one(instruction_set: str) -> None:
    small = logits(3, 130)
    before = draw(*small, DENSE)
    draw(*logits(3, 20_000, seed=1), DENSE)
    same(draw(*small, DENSE), before)


# Plausible tokens wherever and as many as they may be.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [64, 128, 1023, 1024, 1025, 1151, 1152, 1153, 2048, 2300])
def test_the_largest_logit_is_found_in_every_column(
    instruction_set: str, vocab: int, dtype: torch.dtype
) -> None:
    good = torch.zeros(vocab, vocab, dtype=dtype).fill_diagonal_(50.0)
    out = draw(good, None, SamplingParams(bad_weight=0.0))
    assert columns(out) == [list(range(vocab)), [0] * vocab, [1] * vocab, [1] * vocab]


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_p=0.9),
        SamplingParams(top_k=8, top_p=0.7),
        SamplingParams(top_k=33),
        SamplingParams(min_p=0.3),
        SamplingParams(temperature=0.0, top_k=3),
    ],
    ids=["top-p", "both", "top-k", "min-p", "greedy"],
)
def test_plausible_sets_of_any_size_full_of_ties(
    instruction_set: str, params: SamplingParams, count: int
) -> None:
    """Sets of up to 32 and 64 tokens take shorter ways; every score is one of nine."""
    generator = torch.Generator().manual_seed(count)
    good = torch.full((64, 2300), -9.0)
    places = torch.rand(good.shape, generator=generator).argsort(-1)[:, :count]
    good.scatter_(1, places, torch.randint(3, (64, count), generator=generator) / 2)
    bad = torch.randint(3, good.shape, generator=generator) / 2
    out = draw(good, bad, params)
    same(out, draw(good, bad, params, backend="reference"))
    assert set(out.plausible.tolist()) == {count}


# Rows that cannot be sampled.

VOCAB = 2300
# Ends and middles of vectors, of tiles of 128 and blocks of 1024, and of the tail after 2048.
COLUMNS = (0, 21, 127, 128, 1023, 1024, 2047, 2048, 2175, 2176, 2299)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", [math.nan, INF, -INF])
@pytest.mark.parametrize("side", ["good", "bad"])
@pytest.mark.parametrize("plausible", [True, False], ids=["plausible", "implausible"])
def test_a_value_that_is_not_finite_is_reported_for_its_row_alone(
    instruction_set: str, plausible: bool, side: str, value: float, column: int
) -> None:
    good, bad = logits(9, VOCAB)
    good[4, column] = 9.0 if plausible else -90.0
    whole = draw(good, bad)
    damaged = {"good": good.clone(), "bad": bad.clone()}
    damaged[side][4, column] = value
    out = draw(damaged["good"], damaged["bad"])
    expected = draw(damaged["good"], damaged["bad"], backend="reference")
    same(out, expected)

    others = [row for row in range(9) if row != 4]
    assert columns(out, others) == columns(whole, others)
    if side == "good" and value != -INF:
        status = RowStatus.GOOD_NOT_FINITE
    elif side == "bad" and plausible:
        status = RowStatus.BAD_NOT_FINITE
    else:
        status = RowStatus.OK
    assert out.status[4] == status
    if status == RowStatus.OK:
        assert plausible or columns(out) == columns(whole)
    else:
        assert columns(out, 4) == [-1, status, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 8, 127, 128, 300])
def test_row_without_a_finite_logit(instruction_set: str, vocab: int, dtype: torch.dtype) -> None:
    good, bad = (x.to(dtype) for x in logits(3, vocab))
    good[1] = -INF
    for params in (CD, DENSE, SamplingParams(temperature=0.0)):
        out = draw(good, bad, params)
        assert out.status.tolist() == [RowStatus.OK, RowStatus.NO_FINITE_GOOD, RowStatus.OK]
        assert columns(out, 1) == [-1, RowStatus.NO_FINITE_GOOD, 0, 0]


@pytest.mark.parametrize("params", [CD, DENSE, SamplingParams(temperature=0.0)])
def test_overflow_of_a_score(instruction_set: str, params: SamplingParams) -> None:
    good, bad = logits(4, VOCAB)
    good[1, 100], bad[1, 100] = 3e38, -3e38  # finite logits, infinite score
    good[2, 100], bad[2, 100] = 3e38, 3e38  # the difference is finite
    out = draw(good, bad, params)
    same(out, draw(good, bad, params, backend="reference"))
    assert out.status.tolist() == [0, RowStatus.SCORE_OVERFLOW, 0, 0]
    assert out.tokens[1] == -1


def test_overflow_by_temperature(instruction_set: str) -> None:
    good, bad = logits(4, VOCAB)
    good[1] = 1e30
    params = SamplingParams(temperature=1e-20)
    out = draw(good, bad, params)
    same(out, draw(good, bad, params, backend="reference"))
    assert out.status.tolist() == [0, RowStatus.SCORE_OVERFLOW, 0, 0]


@pytest.mark.parametrize(
    "params", [SamplingParams(bad_weight=1e-60, alpha=0.0), SamplingParams(temperature=1e-60)]
)
def test_parameters_below_fp32_mean_the_same_to_every_backend(
    instruction_set: str, params: SamplingParams
) -> None:
    good, bad = logits(4, VOCAB)
    bad[1, 7] = math.nan
    same(draw(good, bad, params), draw(good, bad, params, backend="reference"))
