"""The kernels that draw from lists, in one launch, or in two if rows are split into parts.

A row with more than CAPACITY plausible tokens is left PENDING. Which rows those are depends on
their own logits only.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.sampling.collect import GROUP, collect_parts, collect_row, lane_maxima
from cdgen.kernels.gpu.sampling.draw import draw_from_list, write
from cdgen.kernels.gpu.sampling.types import (
    GOOD_NOT_FINITE,
    NEVER,
    NO_FINITE_GOOD,
    OK,
    PENDING,
    Truncation,
)


@triton.jit
def _finish_row(
    row,
    maximum,
    count,
    good,
    bad,
    score_params,
    truncation,
    noise,
    lists,
    row_max,
    drawn,
    TRUNCATE: tl.constexpr,
    CAPACITY: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Draw from the row's list of `count` tokens and write the outcome."""
    status = tl.where(count > CAPACITY, PENDING, OK)
    status = tl.where(maximum == NEVER, NO_FINITE_GOOD, status)
    status = tl.where(maximum == float("inf"), GOOD_NOT_FINITE, status)
    token, kept = -1, 0
    if status == PENDING:
        tl.store(row_max + row, maximum)
    if status == OK:
        tl.debug_barrier()  # each thread reads parts of the list that others wrote
        token, status, kept = draw_from_list(
            row,
            count,
            good,
            bad,
            score_params,
            truncation,
            noise,
            lists,
            TRUNCATE,
            CAPACITY,
            LANES,
            BLOCK_D,
        )
    write(drawn, row, token, status, count, kept)


@triton.jit(do_not_specialize=["top_k", "seed_low", "seed_high"])
def sample_kernel(
    good,  # [B, V]
    good_stride,
    vocab,
    bad,  # Bad
    score_params,  # ScoreParams; `params` is a local name of Triton's generated launcher
    top_k,
    top_p: tl.float64,
    sequence_ids,  # [B] int64
    positions,  # [B]
    seed_low,
    seed_high,
    lists,  # Lists
    row_max,  # [B] float32, written: max g of pending rows
    drawn,  # Drawn
    part_max,  # [B, SPLITS] float32 from `part_kernel`; None: rows are not split
    SPLITS: tl.constexpr,
    TRUNCATE: tl.constexpr,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
    GATHER: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program per row."""
    row = tl.program_id(0).to(tl.int64)
    noise = (tl.load(positions + row), tl.load(sequence_ids + row), seed_low, seed_high)
    first = row * good_stride
    tokens = lists.tokens + row * CAPACITY
    if part_max is None:
        maximum, count = collect_row(
            good,
            first,
            vocab,
            score_params.log_alpha,
            lists.groups + row * (BLOCK // GROUP),
            tokens,
            CAPACITY,
            BLOCK,
            GATHER,
        )
    else:
        maximum, count = collect_parts(
            good,
            first,
            vocab,
            score_params.log_alpha,
            part_max + row * SPLITS,
            tokens,
            CAPACITY,
            SPLITS,
            BLOCK,
        )
    _finish_row(
        row,
        maximum,
        count,
        good + first,
        bad,
        score_params,
        Truncation(top_k, top_p),
        noise,
        lists,
        row_max,
        drawn,
        TRUNCATE,
        CAPACITY,
        LANES,
        BLOCK_D,
    )


@triton.jit
def part_kernel(good, good_stride, vocab, part_max, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """One program per part of a row: its maximum, +inf if a logit is NaN."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    span = tl.cdiv(vocab, SPLITS)
    begin = tl.minimum(part * span, vocab)
    count = tl.minimum(span, vocab - begin)
    lane_max, _ = lane_maxima(good, row * good_stride + begin, count, BLOCK)
    tl.store(part_max + row * SPLITS + part, tl.max(lane_max, 0))
