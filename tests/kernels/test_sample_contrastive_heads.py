"""The native sampler with BAD's head, which computes only the logits that matter, against the
reference, which computes all of them."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from head_cases import KEY_TOLERANCE, PARAMETERS, ROWS, VOCAB, noise, problem

from cdgen.kernels import reference
from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def draw(
    good: torch.Tensor,
    hidden: torch.Tensor,
    head: torch.Tensor,
    params: SamplingParams = PARAMETERS["cd"],
    **arguments: Any,
) -> SampleOutput:
    seed, ids, positions = noise(len(good))
    return sample_contrastive_heads(
        good, hidden, head, params, seed=seed, sequence_ids=ids, positions=positions, **arguments
    )


def columns(out: SampleOutput) -> list[list[int]]:
    return [x.tolist() for x in (out.tokens, out.status, out.plausible, out.kept)]


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("width", [1, 7, 8, 31, 32, 33, 200])
def test_same_draws_as_the_reference(
    width: int,
    dtype: torch.dtype,
    with_bias: bool,
    name: str,
    instruction_set: str,
    assert_same_draws: Callable[..., None],
) -> None:
    good, hidden, head, bias = problem(width, dtype)
    params, bad_bias = PARAMETERS[name], bias if with_bias else None
    out = draw(good, hidden, head, params, bad_bias=bad_bias)
    expected = draw(good, hidden, head, params, bad_bias=bad_bias, backend="reference")
    bad = reference.linear(hidden, head, bad_bias)
    # The last bits of a score may decide the last token of a prefix: kept may be one off.
    slack = 1 if params.top_p < 1 else 0
    assert_same_draws(out, expected, good, bad, params, noise(), KEY_TOLERANCE, slack)


def test_whole_numbers_leave_no_room_for_rounding(instruction_set: str) -> None:
    """Every product and sum is exact, so heads and logits must draw the same tokens."""
    generator = torch.Generator().manual_seed(0)
    good = torch.randint(-6, 7, (ROWS, VOCAB), generator=generator).float()
    hidden = torch.randint(-3, 4, (ROWS, 33), generator=generator).float()
    head = torch.randint(-3, 4, (VOCAB, 33), generator=generator).float()
    bias = torch.randint(-3, 4, (VOCAB,), generator=generator).float()
    seed, ids, positions = noise()
    for params in PARAMETERS.values():
        by_logits = sample_contrastive(
            good, hidden @ head.T + bias, params, seed=seed, sequence_ids=ids, positions=positions
        )
        assert columns(draw(good, hidden, head, params, bad_bias=bias)) == columns(by_logits)


@pytest.mark.parametrize("good_dtype", DTYPES)
def test_good_may_have_another_dtype_than_the_head(
    instruction_set: str, good_dtype: torch.dtype, assert_same_draws: Callable[..., None]
) -> None:
    good, hidden, head, _ = problem(32, torch.bfloat16)
    good, bad = good.to(good_dtype), reference.linear(hidden, head, None)
    out, expected = draw(good, hidden, head), draw(good, hidden, head, backend="reference")
    assert_same_draws(out, expected, good, bad, PARAMETERS["cd"], noise(), KEY_TOLERANCE)


def test_strides_of_hidden_and_head(instruction_set: str) -> None:
    good, hidden, head, bias = problem(33)
    expected = draw(good, hidden, head, bad_bias=bias)
    wide_hidden = torch.full((ROWS, 3, 50), math.nan)
    wide_head = torch.full((2 * VOCAB, 40), math.nan)
    wide_hidden[:, 1, 7:40], wide_head[::2, 3:36] = hidden, head
    out = draw(good, wide_hidden[:, 1, 7:40], wide_head[::2, 3:36], bad_bias=bias)
    assert columns(out) == columns(expected)
    shared = draw(good, hidden[:1].expand(ROWS, -1), head, bad_bias=bias)
    assert columns(shared) == columns(draw(good, hidden[:1].repeat(ROWS, 1), head, bad_bias=bias))


def test_head_rows_beyond_2_to_the_31_elements(instruction_set: str) -> None:
    """Only the rows written take memory: untouched pages of an anonymous mapping do not."""
    width, first = 8, VOCAB - 20
    distance = 2**31 // first + 1  # so that the row of every plausible token is beyond
    pages = mmap.mmap(-1, 2 * VOCAB * distance, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    far = torch.frombuffer(pages, dtype=torch.bfloat16).as_strided((VOCAB, width), (distance, 1))
    good, hidden, head, _ = problem(width, torch.bfloat16)
    good[:, :first] -= 100
    far.copy_(head)
    assert columns(draw(good, hidden, far)) == columns(draw(good, hidden, head))


def test_rows_of_the_head_that_no_plausible_token_needs_may_hold_anything(
    instruction_set: str,
) -> None:
    good, hidden, head, bias = problem(33)
    good[:, 100:] -= 100
    expected = draw(good, hidden, head, bad_bias=bias)
    head[100:], bias[100:] = math.nan, math.inf
    assert columns(draw(good, hidden, head, bad_bias=bias)) == columns(expected)
    assert set(expected.status.tolist()) == {RowStatus.OK}


@pytest.mark.parametrize("where", ["hidden", "head", "bias"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_reported_for_its_row_alone(
    instruction_set: str, where: str, value: float
) -> None:
    good, hidden, head, bias = problem(33)
    good[:, 7] -= 100  # token 7 is plausible in row 3 alone
    good[3, 7] = 20.0
    whole = draw(good, hidden, head, bad_bias=bias)
    {"hidden": hidden[3], "head": head[7], "bias": bias[7:]}[where][0] = value
    out = draw(good, hidden, head, bad_bias=bias)
    assert out.status.tolist() == [3 * (row == 3) for row in range(ROWS)]
    whole.tokens[3], whole.status[3] = -1, RowStatus.BAD_NOT_FINITE
    whole.plausible[3] = whole.kept[3] = 0
    assert columns(out) == columns(whole)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_head_and_bias_may_have_padding_rows(instruction_set: str, backend: str) -> None:
    good, hidden, head, bias = problem(16)
    expected = draw(good, hidden, head, bad_bias=bias, backend=backend)
    good = torch.cat([good, torch.full((ROWS, 12), math.nan)], dim=1)
    head = torch.cat([head, torch.full((30, 16), math.nan)])
    bias = torch.cat([bias, torch.full((30,), math.nan)])
    out = draw(good, hidden, head, bad_bias=bias, vocab_size=VOCAB, backend=backend)
    assert columns(out) == columns(expected)


def test_order_batch_and_threads_change_no_bit(
    instruction_set: str,
    one_and_two_threads: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    good, hidden, head, _ = problem(200, rows=300)
    one, two = one_and_two_threads(lambda: draw(good, hidden, head))
    assert columns(one) == columns(two)
    seed, ids, positions = noise(300)
    for rows in ([299, 0, 17], [5]):
        coordinates = {"seed": seed, "sequence_ids": ids[rows], "positions": positions[rows]}
        out = sample_contrastive_heads(
            good[rows], hidden[rows], head, PARAMETERS["cd"], **coordinates
        )
        assert out.tokens.tolist() == one.tokens[rows].tolist()
