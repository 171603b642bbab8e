"""Truncation of a row of any length, where what it keeps fits a list of SORTED tokens.

The pass that found the row's largest score also kept the maximum of every lane. The w-th largest of
them is a score that at least w tokens reach, and not many more. A second pass lists those tokens,
and sums the mass of the row if top-p needs it. The list is sorted, and the cut is where its running
sums say. If the list is too short to tell (a flat row, a large top_k) dense_cut.py finds the cut.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.philox import gumbel, token_words
from cdgen.kernels.gpu.sampling.dense_row import (
    load_tile,
    order_key,
    score_of_key,
    score_tile,
)
from cdgen.kernels.gpu.sampling.truncate import best_of, mass, mass_limit
from cdgen.kernels.gpu.sampling.types import NEVER, NO_TOKEN


@triton.jit
def _reached_by(
    lane_max,  # [BLOCK] float32
    wanted,
):
    """Return a score that `wanted` or more of the lanes' maxima reach; -inf if fewer are finite.

    It is the largest one whose lower 16 bits are 0, so a few more may reach it.
    """
    keys = (
        order_key(lane_max).to(tl.uint32, bitcast=True) ^ 0x80000000
    )  # the order of unsigned keys
    low = tl.full([], 0, tl.uint32)
    for step in range(0, 16):
        trial = low | (tl.full([], 0x80000000, tl.uint32) >> step)
        enough = tl.sum((keys >= trial).to(tl.int32), 0) >= wanted
        low = tl.where(enough, trial, low)
    score = score_of_key((low ^ 0x80000000).to(tl.int32, bitcast=True))
    return tl.where(score == score, score, NEVER)  # keys below that of -inf belong to no score


@triton.jit
def _list_tokens(
    row,
    score_params,
    top_score,
    least_score,
    weigh,  # whether the mass is needed
    tokens,
    scores,
    DIVIDE: tl.constexpr,
    SORTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the tokens that reach `least_score`, up to SORTED. Return their number and the mass of
    the row."""
    count = tl.zeros([], tl.int32)
    total = tl.zeros([BLOCK], tl.int64)
    for start in range(0, row.vocab, BLOCK):
        g, b = load_tile(row, start, BLOCK)
        plausible, score = score_tile(row, g, b, start, score_params, DIVIDE, BLOCK)
        wanted = (plausible & (score >= least_score)).to(tl.int32)
        through = tl.cumsum(wanted, 0)
        place = count + through - 1
        fits = (wanted != 0) & (place < SORTED)
        tl.store(tokens + place, start + tl.arange(0, BLOCK), mask=fits)
        tl.store(scores + place, score, mask=fits)
        count += tl.max(through, 0)
        if weigh:
            total += mass(score, top_score, score_params.mass_units)
    return count, tl.sum(total, 0)


@triton.jit
def _sorted_list(tokens, scores, n, SORTED: tl.constexpr):
    """Return the tokens and scores of a list by score descending, then token ascending; what lies
    beyond its end comes last."""
    at = tl.arange(0, SORTED)
    token = tl.load(tokens + at, mask=at < n, other=NO_TOKEN)
    score = tl.load(scores + at, mask=at < n, other=NEVER)
    # One integer in that order: the score's key above, the token, counted down, below.
    packed = (order_key(score).to(tl.int64) << 32) | (token ^ NO_TOKEN).to(tl.int64)
    packed = tl.sort(packed, descending=True)
    return packed.to(tl.int32) ^ NO_TOKEN, score_of_key((packed >> 32).to(tl.int32))


@triton.jit
def draw_from_top(
    row,
    lane_max,  # [BLOCK] float32: of the scores
    top_score,
    plausible,  # their number
    score_params,
    truncation,
    noise,
    tokens,  # [SORTED] int32 scratch
    scores,  # [SORTED] float32 scratch
    DIVIDE: tl.constexpr,
    SORTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return token and kept, and whether the list was long enough to know them."""
    by_rank = (truncation.top_k > 0) & (truncation.top_k < plausible)
    by_mass = truncation.top_p < 1
    # In 2048 lanes, 640 maxima above a bound mean some 770 tokens above it, and seldom 1024.
    room: tl.constexpr = min(SORTED * 5 // 8, BLOCK // 2)
    wanted = tl.where(by_rank, tl.minimum(truncation.top_k, room), room)
    least_score = _reached_by(lane_max, wanted)
    n, total = _list_tokens(
        row,
        score_params,
        top_score,
        least_score,
        by_mass & ~by_rank,
        tokens,
        scores,
        DIVIDE,
        SORTED,
        BLOCK,
    )
    best_token, kept, known = tl.full([], NO_TOKEN, tl.int32), tl.full([], 0, tl.int32), n < 0
    if n <= SORTED:
        tl.debug_barrier()  # each thread reads parts of the list that others wrote
        token, score = _sorted_list(tokens, scores, n, SORTED)
        rank = tl.arange(0, SORTED)
        keep = rank < tl.where(by_rank, tl.minimum(truncation.top_k, n), n)
        known = tl.where(by_rank, n >= truncation.top_k, n == plausible)
        if by_mass:
            amount = tl.where(keep, mass(score, top_score, score_params.mass_units), 0)
            listed = tl.sum(amount, 0)
            limit = mass_limit(tl.where(by_rank, listed, total), truncation.top_p)
            keep &= tl.cumsum(amount, 0) - amount < limit
            known |= ~by_rank & (listed >= limit)
        keep &= score >= top_score + score_params.log_min_p
        key = score
        if score_params.temperature != 0:
            key += gumbel(token_words(token, noise))
        _, best_token = best_of(tl.where(keep, key, NEVER), token, NEVER, NO_TOKEN)
        kept = tl.sum(keep.to(tl.int32), 0)
    return best_token, kept, known
