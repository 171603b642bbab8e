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
from cdgen.kernels.gpu.sampling.draw import is_finite, write
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


@triton.jit
def _any_rival(score, words, best_key, score_params):
    """Return whether a token with this score and word, or a better one, may beat the best key."""
    # The word's upper 23 bits as a fraction: at most 1 + word / 2**32, minus 1.
    u = ((words >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0
    reach = tl.exp2((score - best_key) * LOG2_E + MARGIN)
    rivals = tl.where(score_params.temperature == 0, score > best_key, u <= reach)
    return tl.max(rivals.to(tl.int32), 0) > 0


@triton.jit
def _draw_tile(score, start, noise, score_params, best_key, best_token, BLOCK: tl.constexpr):
    """Return the best key and token after a tile of scores that starts at a multiple of 4."""
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


@triton.jit
def _sweep(
    row,
    score_params,
    cut_key,
    ties,
    least_score,
    noise,
    DIVIDE: tl.constexpr,
    DRAW: tl.constexpr,
    CUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Make one pass: return token, plausible, kept, the [BLOCK] largest scores of the lanes, and
    whether any was not finite. With CUT, only the first `ties` of those at cut_key are kept, and no
    score below least_score."""
    best_key = tl.full([], NEVER, tl.float32)
    best_token = tl.full([], NO_TOKEN, tl.int32)
    ties_seen = tl.full([], 0, tl.int64)
    plausible_lanes = tl.zeros([BLOCK], tl.int32)
    kept_lanes = tl.zeros([BLOCK], tl.int32)
    magnitude = tl.zeros([BLOCK], tl.float32)
    top = tl.full([BLOCK], NEVER, tl.float32)
    g_next, b_next = load_tile(row, 0, BLOCK)
    for start in range(0, row.vocab, BLOCK):
        g, b = g_next, b_next
        g_next, b_next = load_tile(row, start + BLOCK, BLOCK)  # loaded while this tile is processed
        plausible, score = score_tile(row, g, b, start, score_params, DIVIDE, BLOCK)
        plausible_lanes += plausible.to(tl.int32)
        size = tl.where(plausible, tl.abs(score), 0.0)
        magnitude = tl.maximum(magnitude, size, propagate_nan=tl.PropagateNan.ALL)
        if CUT:
            order = order_key(score)
            tie = (plausible & (order == cut_key)).to(tl.int32)
            place = ties_seen + tl.cumsum(tie, 0) - tie
            keep = plausible & (score >= least_score)
            keep &= (order > cut_key) | ((tie != 0) & (place < ties))
            ties_seen += tl.sum(tie, 0)
            kept_lanes += keep.to(tl.int32)
            score = tl.where(keep, score, NEVER)
        if DRAW:
            best_key, best_token = _draw_tile(
                score, start, noise, score_params, best_key, best_token, BLOCK
            )
        else:
            top = tl.maximum(top, score)
    plausible = tl.sum(plausible_lanes, 0)
    kept = tl.sum(kept_lanes, 0) if CUT else plausible
    largest = tl.max(tl.where(magnitude == magnitude, magnitude, float("inf")), 0)
    return best_token, plausible, kept, top, largest == float("inf")


@triton.jit
def _diagnose(row, score_params, DIVIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Return the status of a row in which some score is not finite."""
    ways = tl.zeros([BLOCK], tl.int32)  # one bit for each reason
    for start in range(0, row.vocab, BLOCK):
        g, b = load_tile(row, start, BLOCK)
        plausible, _ = score_tile(row, g, b, start, score_params, DIVIDE, BLOCK)
        g, b = g.to(tl.float32), b.to(tl.float32)
        ways |= tl.where(plausible & ~is_finite(g), 1, 0)
        if row.bad is not None:
            ways |= tl.where(plausible & ~is_finite(b), 2, 0)
    status = tl.where(tl.max(ways & 2, 0) > 0, BAD_NOT_FINITE, SCORE_OVERFLOW)
    return tl.where(tl.max(ways & 1, 0) > 0, GOOD_NOT_FINITE, status)


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
        token, _, kept, _, _ = _sweep(
            row, score_params, cut_key, ties, least_score, noise, DIVIDE, True, True, BLOCK
        )
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
    token, plausible, kept, lane_max, odd = _sweep(
        row, score_params, LOWEST_KEY, 0, NEVER, noise, DIVIDE, not TRUNCATE, False, BLOCK
    )
    status = tl.where(plausible == 0, NO_FINITE_GOOD, OK)
    if odd:
        status = _diagnose(row, score_params, DIVIDE, BLOCK)
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
