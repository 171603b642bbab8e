"""Rows whose plausible set does not fit a list: flat rows, and every row if alpha is 0.

Without truncation one pass over both models' logits draws (dense_pass.py).

With top-k or top-p, a first pass finds the largest scores and a second lists the tokens near the
top, which are sorted and drawn from (dense_list.py). If the list is too short, the cut is found in
the whole row (dense_cut.py) and one more pass draws.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.sampling.dense_cut import find_cut
from cdgen.kernels.gpu.sampling.dense_list import draw_from_top
from cdgen.kernels.gpu.sampling.dense_pass import draw_tile, first_pass
from cdgen.kernels.gpu.sampling.dense_row import (
    LOWEST_KEY,
    Row,
    load_tile,
    order_key,
    score_tile,
)
from cdgen.kernels.gpu.sampling.draw import write
from cdgen.kernels.gpu.sampling.types import NEVER, NO_TOKEN, OK, PENDING, Truncation


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
        best_key, best_token = draw_tile(
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
    token, plausible, status, lane_max = first_pass(
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
