"""The kernels that draw from lists, in one launch, or in two where rows are split into parts.

A row with more than CAPACITY plausible tokens is left PENDING: which rows those are depends on
their logits alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.sampling.collect import (
    GROUP,
    NEVER,
    collect_parts,
    collect_row,
    lane_maxima,
)
from cdgen.kernels.gpu.sampling.draw import (
    GOOD_NOT_FINITE,
    NO_FINITE_GOOD,
    OK,
    PENDING,
    draw_from_list,
    write,
)


@triton.jit
def _finish_row(row, top, count, good, bad, rule, top_k, top_p, noise, lists, tops, drawn,
                TRUNCATE: tl.constexpr, CAPACITY: tl.constexpr, LANES: tl.constexpr,
                BLOCK_D: tl.constexpr):  # fmt: skip
    """Draws from the row's list of `count` tokens, and writes what came of it."""
    status = tl.where(count > CAPACITY, PENDING, OK)
    status = tl.where(top == NEVER, NO_FINITE_GOOD, status)
    status = tl.where(top == float("inf"), GOOD_NOT_FINITE, status)
    token, kept = -1, 0
    if status == PENDING:
        tl.store(tops + row, top)
    if status == OK:
        tl.debug_barrier()  # each thread wrote a part of the list and reads another
        token, status, kept = draw_from_list(
            row, count, good, bad, rule, top_k, top_p, noise, lists,
            TRUNCATE, CAPACITY, LANES, BLOCK_D,
        )  # fmt: skip
    write(drawn, row, token, status, count, kept)


@triton.jit(do_not_specialize=["top_k", "seed_low", "seed_high"])
def sample_kernel(
    good,  # [B, V]
    good_stride,
    vocab,
    bad,  # Bad
    rule,  # Rule
    top_k,
    top_p: tl.float64,
    sequence_ids,  # [B] int64
    positions,  # [B]
    seed_low,
    seed_high,
    lists,  # Lists
    tops,  # [B] float32: receives max g of pending rows
    drawn,  # Drawn
    part_tops,  # [B, SPLITS] float32 from `part_kernel`; None: rows are not split
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
    if part_tops is None:
        top, count = collect_row(
            good, first, vocab, rule.log_alpha, lists.groups + row * (BLOCK // GROUP), tokens,
            CAPACITY, BLOCK, GATHER,
        )  # fmt: skip
    else:
        top, count = collect_parts(
            good, first, vocab, rule.log_alpha, part_tops + row * SPLITS, tokens,
            CAPACITY, SPLITS, BLOCK,
        )  # fmt: skip
    _finish_row(
        row, top, count, good + first, bad, rule, top_k, top_p, noise, lists, tops, drawn,
        TRUNCATE, CAPACITY, LANES, BLOCK_D,
    )  # fmt: skip


@triton.jit
def part_kernel(good, good_stride, vocab, part_tops, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """One program per part of a row: its maximum, +inf where a logit is NaN."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    span = tl.cdiv(vocab, SPLITS)
    begin = tl.minimum(part * span, vocab)
    count = tl.minimum(span, vocab - begin)
    tops, _ = lane_maxima(good, row * good_stride + begin, count, BLOCK)
    tl.store(part_tops + row * SPLITS + part, tl.max(tops, 0))
