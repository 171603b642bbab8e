"""Rows whose plausible set does not fit a list: flat rows, and every row if alpha is 0.

Without truncation one pass over both models' logits draws. Noise would be its bottleneck, so no
logarithm is taken where it cannot matter: gumbel <= -log u, so a token cannot win if its u exceeds
exp(its score - best key). Tiles are tested by the smallest u and the largest score of every four
tokens that share a Philox block, and token by token if that does not exclude them.

With top-k or top-p, a first pass finds the largest scores and a second lists the tokens near the
top, which are sorted and drawn from (dense_list.py). If the list is too short, the cut is found in
the whole row (dense_cut.py) and one more pass draws.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from cdgen.kernels.gpu.philox import gumbel, in_token_order, philox_words
from cdgen.kernels.gpu.sampling.dense_cut import find_cut
from cdgen.kernels.gpu.sampling.dense_list import draw_from_top
from cdgen.kernels.gpu.sampling.dense_row import (
    LOWEST_KEY,
    Row,
    load_tile,
    order_key,
    score_tile,
)
from cdgen.kernels.gpu.sampling.draw import combine, is_finite, write
from cdgen.kernels.gpu.sampling.truncate import best_of
from cdgen.kernels.gpu.sampling.types import (
    BAD_NOT_FINITE,
    GOOD_NOT_FINITE,
    NEVER,
    NO_FINITE_GOOD,
    NO_TOKEN,
    OK,
    PENDING,
    SCORE_OVERFLOW,
    Truncation,
)

LOG2_E = tl.constexpr(1.4426950408889634)
# Added to the binary logarithm of a reach. Pruning can only err if u >= 2^-23, that is, if scores
# and best key are within 16 of each other. Rounding of the argument and of exp2 is then below 1e-5,
# and that of gumbel below 6e-6.
MARGIN = tl.constexpr(1e-4)
# Stands for LOG2_E without noise: any score below the best then has reach 0.
STEEP = tl.constexpr(1e30)


@triton.jit
def _any_rival(score, words, best_key, score_params):
    """Return whether a token with this score and word, or a better one, may beat the best key."""
    # The word's upper 23 bits as a fraction: at most 1 + word / 2**32, minus 1.
    u = ((words >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0
    slope = tl.where(score_params.temperature == 0, STEEP, LOG2_E)
    rivals = u <= tl.exp2((score - best_key) * slope + MARGIN)
    return tl.max(rivals.to(tl.int32), 0) > 0


@triton.jit
def _draw_tile(score, start, noise, score_params, best_key, best_token, BLOCK: tl.constexpr):
    """Return the best key and token after a tile of scores that starts at a multiple of 4. Scores
    that are NaN are never drawn."""
    token = start + tl.arange(0, BLOCK)
    blocks = (start >> 2) + tl.arange(0, BLOCK // 4)
    w0, w1, w2, w3 = philox_words(blocks, noise)
    least = tl.minimum(tl.minimum(w0, w1), tl.minimum(w2, w3))
    top = tl.max(tl.reshape(score, [BLOCK // 4, 4]), 1)
    if _any_rival(top, least, best_key, score_params):
        words = in_token_order(w0, w1, w2, w3)
        if _any_rival(score, words, best_key, score_params):
            key = tl.where(score_params.temperature == 0, score, score + gumbel(words))
            key = tl.where(score > NEVER, key, NEVER)
            best_key, best_token = best_of(key, token, best_key, best_token)
    return best_key, best_token


class Pass(NamedTuple):
    """What the first pass knows after some tiles."""

    best_key: Any
    best_token: Any
    top: Any  # [BLOCK] float32: the largest score of each lane
    magnitude: Any  # [BLOCK] float32: the largest absolute score of each lane, or NaN
    plausible: Any  # [BLOCK] int32, counted only if the row has a threshold


@triton.jit
def _take_tile(
    row,
    g,
    b,
    start,
    score_params,
    noise,
    before,  # Pass
    DIVIDE: tl.constexpr,
    DRAW: tl.constexpr,
    WHOLE: tl.constexpr,  # all of the tile lies in the row
    BLOCK: tl.constexpr,
):
    """Return `before` and one more tile, of which tokens are drawn with DRAW."""
    best_key, best_token, top, magnitude, count = before
    if row.threshold is None:
        # Holes, logits of -inf, are not masked: a score of -inf or NaN cannot win. They make the
        # magnitude infinite, and `_examine` counts them.
        g, b = g.to(tl.float32), b.to(tl.float32)
        score = combine(g, b, score_params, row.bad is not None, DIVIDE)
        size = tl.abs(score)
        if not WHOLE:
            inside = start + tl.arange(0, BLOCK) < row.vocab
            score, size = tl.where(inside, score, NEVER), tl.where(inside, size, 0.0)
    else:
        plausible, score = score_tile(row, g, b, start, score_params, DIVIDE, BLOCK)
        size = tl.where(plausible, tl.abs(score), 0.0)
        count += plausible.to(tl.int32)
    magnitude = tl.maximum(magnitude, size, propagate_nan=tl.PropagateNan.ALL)
    if DRAW:
        best_key, best_token = _draw_tile(
            score, start, noise, score_params, best_key, best_token, BLOCK
        )
    else:
        top = tl.where(score > top, score, top)  # not NaN, on a GPU and interpreted
    return Pass(best_key, best_token, top, magnitude, count)


@triton.jit
def _first_pass(
    row, score_params, noise, DIVIDE: tl.constexpr, DRAW: tl.constexpr, BLOCK: tl.constexpr
):
    """Return token (with DRAW), the number of plausible tokens, status, and the [BLOCK] largest
    scores of the lanes (without DRAW)."""
    state = Pass(
        tl.full([], NEVER, tl.float32),
        tl.full([], NO_TOKEN, tl.int32),
        tl.full([BLOCK], NEVER, tl.float32),
        tl.zeros([BLOCK], tl.float32),
        tl.zeros([BLOCK], tl.int32),
    )
    whole = row.vocab // BLOCK * BLOCK
    g_next, b_next = load_tile(row, 0, BLOCK)
    for start in range(0, whole, BLOCK):
        g, b = g_next, b_next
        g_next, b_next = load_tile(row, start + BLOCK, BLOCK)  # loaded while this tile is processed
        state = _take_tile(row, g, b, start, score_params, noise, state, DIVIDE, DRAW, True, BLOCK)
    if whole < row.vocab:
        state = _take_tile(
            row, g_next, b_next, whole, score_params, noise, state, DIVIDE, DRAW, False, BLOCK
        )
    plausible, status = tl.sum(state.plausible, 0), tl.full([], OK, tl.int32)
    if row.threshold is None:
        plausible = row.vocab
    largest = tl.where(state.magnitude == state.magnitude, state.magnitude, float("inf"))
    if tl.max(largest, 0) == float("inf"):
        plausible, status = _examine(row, score_params, DIVIDE, BLOCK)
    return state.best_token, plausible, status, state.top


@triton.jit
def _examine(row, score_params, DIVIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Return the number of plausible tokens and the status of a row in which some score is not
    finite."""
    plausible_lanes = tl.zeros([BLOCK], tl.int32)
    ways = tl.zeros([BLOCK], tl.int32)  # one bit for each reason
    for start in range(0, row.vocab, BLOCK):
        g, b = load_tile(row, start, BLOCK)
        plausible, score = score_tile(row, g, b, start, score_params, DIVIDE, BLOCK)
        g, b = g.to(tl.float32), b.to(tl.float32)
        plausible_lanes += plausible.to(tl.int32)
        ways |= tl.where(plausible & ~is_finite(g), 1, 0)
        ways |= tl.where(plausible & ~is_finite(score), 4, 0)
        if row.bad is not None:
            ways |= tl.where(plausible & ~is_finite(b), 2, 0)
    plausible = tl.sum(plausible_lanes, 0)
    status = tl.where(plausible == 0, NO_FINITE_GOOD, OK)
    status = tl.where(tl.max(ways & 4, 0) > 0, SCORE_OVERFLOW, status)
    status = tl.where(tl.max(ways & 2, 0) > 0, BAD_NOT_FINITE, status)
    return plausible, tl.where(tl.max(ways & 1, 0) > 0, GOOD_NOT_FINITE, status)


@triton.jit
def _draw_cut(
    row,
    score_params,
    cut_key,
    ties,
    least_score,
    noise,
    DIVIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return token and kept of the tokens above cut_key, the first `ties` of those at cut_key, and
    no score below least_score."""
    best_key = tl.full([], NEVER, tl.float32)
    best_token = tl.full([], NO_TOKEN, tl.int32)
    ties_seen = tl.full([], 0, tl.int64)
    kept_lanes = tl.zeros([BLOCK], tl.int32)
    g_next, b_next = load_tile(row, 0, BLOCK)
    for start in range(0, row.vocab, BLOCK):
        g, b = g_next, b_next
        g_next, b_next = load_tile(row, start + BLOCK, BLOCK)  # loaded while this tile is processed
        plausible, score = score_tile(row, g, b, start, score_params, DIVIDE, BLOCK)
        order = order_key(score)
        tie = (plausible & (order == cut_key)).to(tl.int32)
        place = ties_seen + tl.cumsum(tie, 0) - tie
        keep = plausible & (score >= least_score)
        keep &= (order > cut_key) | ((tie != 0) & (place < ties))
        ties_seen += tl.sum(tie, 0)
        kept_lanes += keep.to(tl.int32)
        score = tl.where(keep, score, NEVER)
        best_key, best_token = _draw_tile(
            score, start, noise, score_params, best_key, best_token, BLOCK
        )
    return best_token, tl.sum(kept_lanes, 0)


@triton.jit
def _draw_truncated(
    row,
    lane_max,
    plausible,
    score_params,
    truncation,
    noise,
    tokens,
    scores,
    DIVIDE: tl.constexpr,
    SORTED: tl.constexpr,
    TALLY_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return token and kept of a row whose scores are all finite."""
    top_score = tl.max(lane_max, 0)
    by_rank = (truncation.top_k > 0) & (truncation.top_k < plausible)
    token, kept, known = tl.full([], NO_TOKEN, tl.int32), tl.full([], 0, tl.int32), plausible < 0
    cut_key, ties = tl.full([], LOWEST_KEY, tl.int32), tl.full([], 0, tl.int64)
    if by_rank | (truncation.top_p < 1):
        token, kept, known = draw_from_top(
            row,
            lane_max,
            top_score,
            plausible,
            score_params,
            truncation,
            noise,
            tokens,
            scores,
            DIVIDE,
            SORTED,
            BLOCK,
        )
        if not known:
            cut_key, ties = find_cut(
                row, score_params, top_score, plausible, truncation, DIVIDE, TALLY_BLOCK
            )
    if not known:
        least_score = top_score + score_params.log_min_p
        token, kept = _draw_cut(row, score_params, cut_key, ties, least_score, noise, DIVIDE, BLOCK)
    return token, kept


@triton.jit(do_not_specialize=["top_k", "seed_low", "seed_high"])
def finish_kernel(
    good,  # [B, V]
    good_stride,
    vocab,
    readable,  # columns that may be read: `vocab`, rounded up to 16 if both matrices have them
    bad,  # Bad, with logits or none
    score_params,  # ScoreParams
    top_k,
    top_p: tl.float64,
    sequence_ids,  # [B] int64
    positions,  # [B]
    seed_low,
    seed_high,
    row_max,  # [B] float32: max g of each pending row; None: alpha is 0, every row is pending
    lists,  # Lists of SORTED entries, if rows are truncated
    drawn,  # Drawn
    DIVIDE: tl.constexpr,
    TRUNCATE: tl.constexpr,
    BLOCK: tl.constexpr,
    TALLY_BLOCK: tl.constexpr,
    SORTED: tl.constexpr,
):
    """One program per row, which exits at once unless the row's status is PENDING."""
    program = tl.program_id(0).to(tl.int64)
    threshold = None
    if row_max is not None:
        if tl.load(drawn.status + program) != PENDING:
            return
        threshold = tl.load(row_max + program) + score_params.log_alpha
    bad_row = None
    if bad.logits is not None:
        bad_row = bad.logits + program * bad.logits_stride
    row = Row(good + program * good_stride, bad_row, vocab, readable, threshold)
    noise = (tl.load(positions + program), tl.load(sequence_ids + program), seed_low, seed_high)
    token, plausible, status, lane_max = _first_pass(
        row, score_params, noise, DIVIDE, not TRUNCATE, BLOCK
    )
    kept = plausible
    if TRUNCATE:  # known to the compiler, unlike the status
        if status == OK:
            token, kept = _draw_truncated(
                row,
                lane_max,
                plausible,
                score_params,
                Truncation(top_k, top_p),
                noise,
                lists.tokens + program * SORTED,
                lists.scores + program * SORTED,
                DIVIDE,
                SORTED,
                TALLY_BLOCK,
                BLOCK,
            )
    write(drawn, program, token, status, plausible, kept)
