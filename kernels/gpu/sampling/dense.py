"""Rows whose plausible set does not fit a list: flat rows, and every row if alpha is 0.

Without truncation one pass over both models' logits draws. Noise would be its bottleneck, so no
logarithm is taken where it cannot matter: gumbel <= -log u, so of four tokens that share a Philox
block none can win if their smallest u exceeds exp(their largest score - best key).

With truncation the cut is found first, bit by bit: a score is turned into an integer of the same
order, and each pass over the row fixes four of its 32 bits from the 16 counts, or masses, at and
above 16 candidates. Masses are integers (truncate.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from cdgen.kernels.gpu.philox import gumbel, in_token_order, philox_words
from cdgen.kernels.gpu.sampling.draw import combine, is_finite, write
from cdgen.kernels.gpu.sampling.truncate import best_of, mass, mass_limit
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

LOWEST_KEY = tl.constexpr(-(2**31))  # below the key of every score
LOG2_E = tl.constexpr(1.4426950408889634)
# Added to the binary logarithm of a reach. Pruning can only err if u >= 2^-23, that is, if scores
# and best key are within 16 of each other. Rounding of the argument and of exp2 is then below 1e-5,
# and that of gumbel below 6e-6.
MARGIN = tl.constexpr(1e-4)


class Row(NamedTuple):
    """One row of logits, as the passes over it need it."""

    good: Any  # its first logit
    bad: Any  # its first logit, or None if BAD is not read
    vocab: Any
    readable: Any
    threshold: Any  # for GOOD's logits; None if every finite one is plausible


@triton.jit
def _order_key(score):
    """Return an int32 in the order of the scores (-0.0 like 0.0); `_score_of_key` is its
    inverse."""
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _score_of_key(key):
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _load(row, start, BLOCK: tl.constexpr):
    """Load the logits of a tile; beyond the row, GOOD's are -inf."""
    token = start + tl.arange(0, BLOCK)
    g = tl.load(row.good + token, mask=token < row.readable, other=NEVER)
    b = g
    if row.bad is not None:
        b = tl.load(row.bad + token, mask=token < row.readable, other=0.0)
    return g, b


@triton.jit
def _scores(row, g, b, start, score_params, DIVIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Return which tokens of a tile are plausible, NaN included, and their scores; -inf for the
    others."""
    token = start + tl.arange(0, BLOCK)
    g = g.to(tl.float32)
    plausible = (g != NEVER) & (token < row.vocab)
    if row.threshold is not None:
        plausible &= g >= row.threshold
    score = combine(g, b.to(tl.float32), score_params, row.bad is not None, DIVIDE)
    return plausible, tl.where(plausible, score, NEVER)


@triton.jit
def _tally(
    row,
    score_params,
    top_score,
    keys,
    least_key,
    DIVIDE: tl.constexpr,
    WEIGH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return [16] int64: how many scores are at or above each of 16 keys; with WEIGH, the mass of
    those that are also above least_key."""
    total = tl.zeros([16], tl.int64)
    for start in range(0, row.vocab, BLOCK):
        g, b = _load(row, start, BLOCK)
        plausible, score = _scores(row, g, b, start, score_params, DIVIDE, BLOCK)
        key = tl.where(plausible, _order_key(score), LOWEST_KEY)
        if WEIGH:
            amount = tl.where(key > least_key, mass(score, top_score, score_params.mass_units), 0)
        else:
            amount = plausible.to(tl.int32)
        total += tl.sum(tl.where(key[None, :] >= keys[:, None], amount[None, :], 0), 1).to(tl.int64)
    return total


@triton.jit
def _last_key(
    row,
    score_params,
    top_score,
    target,
    tie_key,
    tie_mass,
    DIVIDE: tl.constexpr,
    WEIGH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return the largest key with a count, or mass, of `target` or more at and above it, and how
    much of that is above it. `tie_mass` is the mass that top-k keeps at `tie_key`, its own last
    key."""
    digit = tl.arange(0, 16).to(tl.int64)
    low = tl.full([], 0, tl.int64)  # keys, shifted to start at 0
    reached = tl.zeros([16], tl.int64)
    for step in range(0, 9):
        # Eight steps of four bits each. The ninth counts what lies above the key that was found.
        shift = tl.maximum(28 - 4 * step, 0)
        keys = low + tl.where(step < 8, digit << shift, 1) + LOWEST_KEY
        reached = _tally(
            row, score_params, top_score, keys.to(tl.int32), tie_key, DIVIDE, WEIGH, BLOCK
        )
        reached += tl.where(keys <= tie_key, tie_mass, 0)
        passed = tl.sum((reached >= target).to(tl.int64), 0)
        low += tl.where(step < 8, (passed - 1) << shift, 0)
    return (low + LOWEST_KEY).to(tl.int32), tl.max(reached, 0)


@triton.jit
def _find_cut(
    row, score_params, top_score, plausible, truncation, DIVIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """Return the last key that top-k and then top-p keep, and how many of its ties."""
    cut_key, ties = tl.full([], LOWEST_KEY, tl.int32), tl.full([], 0, tl.int64)
    tie_mass = tl.full([], 0, tl.int64)
    if (truncation.top_k > 0) & (truncation.top_k < plausible):
        cut_key, above = _last_key(
            row, score_params, top_score, truncation.top_k, LOWEST_KEY, 0, DIVIDE, False, BLOCK
        )
        ties = truncation.top_k - above
        tie_mass = ties * mass(_score_of_key(cut_key), top_score, score_params.mass_units)
    if truncation.top_p < 1:
        everything = tl.full([16], LOWEST_KEY, tl.int32)
        total = _tally(row, score_params, top_score, everything, cut_key, DIVIDE, True, BLOCK)
        limit = mass_limit(tl.max(total, 0) + tie_mass, truncation.top_p)
        cut_key, above = _last_key(
            row, score_params, top_score, limit, cut_key, tie_mass, DIVIDE, True, BLOCK
        )
        one = mass(_score_of_key(cut_key), top_score, score_params.mass_units)
        ties = (limit - above + one - 1) // one
    return cut_key, ties


@triton.jit
def _draw_tile(score, start, noise, score_params, best_key, best_token, BLOCK: tl.constexpr):
    """Return the best key and token after a tile of scores that starts at a multiple of 4."""
    token = start + tl.arange(0, BLOCK)
    blocks = (start >> 2) + tl.arange(0, BLOCK // 4)
    w0, w1, w2, w3 = philox_words(blocks, noise)
    least = tl.minimum(tl.minimum(w0, w1), tl.minimum(w2, w3))
    # Its upper 23 bits as a fraction: at most 1 + least / 2**32, minus 1.
    u = ((least >> 9) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0
    top = tl.max(tl.reshape(score, [BLOCK // 4, 4]), 1)
    reach = tl.exp2((top - best_key) * LOG2_E + MARGIN)
    rivals = tl.where(score_params.temperature == 0, top > best_key, u <= reach)
    if tl.max(rivals.to(tl.int32), 0) > 0:
        words = in_token_order(w0, w1, w2, w3)
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
    """Make one pass: return token, plausible, kept, the largest score, and whether any was not
    finite. With CUT, only the first `ties` of those at cut_key are kept, and no score below
    least_score."""
    best_key = tl.full([], NEVER, tl.float32)
    best_token = tl.full([], NO_TOKEN, tl.int32)
    ties_seen = tl.full([], 0, tl.int64)
    plausible_lanes = tl.zeros([BLOCK], tl.int32)
    kept_lanes = tl.zeros([BLOCK], tl.int32)
    odd_lanes = tl.zeros([BLOCK], tl.int1)
    top = tl.full([BLOCK], NEVER, tl.float32)
    g_next, b_next = _load(row, 0, BLOCK)
    for start in range(0, row.vocab, BLOCK):
        g, b = g_next, b_next
        g_next, b_next = _load(row, start + BLOCK, BLOCK)  # loaded while this tile is processed
        plausible, score = _scores(row, g, b, start, score_params, DIVIDE, BLOCK)
        plausible_lanes += plausible.to(tl.int32)
        odd_lanes |= plausible & ~is_finite(score)
        if CUT:
            order = _order_key(score)
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
    return best_token, plausible, kept, tl.max(top, 0), tl.max(odd_lanes.to(tl.int32), 0)


@triton.jit
def _diagnose(row, score_params, DIVIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Return the status of a row in which some score is not finite."""
    ways = tl.zeros([BLOCK], tl.int32)  # one bit for each reason
    for start in range(0, row.vocab, BLOCK):
        g, b = _load(row, start, BLOCK)
        plausible, _ = _scores(row, g, b, start, score_params, DIVIDE, BLOCK)
        g, b = g.to(tl.float32), b.to(tl.float32)
        ways |= tl.where(plausible & ~is_finite(g), 1, 0)
        if row.bad is not None:
            ways |= tl.where(plausible & ~is_finite(b), 2, 0)
    status = tl.where(tl.max(ways & 2, 0) > 0, BAD_NOT_FINITE, SCORE_OVERFLOW)
    return tl.where(tl.max(ways & 1, 0) > 0, GOOD_NOT_FINITE, status)


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
    drawn,  # Drawn
    DIVIDE: tl.constexpr,
    TRUNCATE: tl.constexpr,
    BLOCK: tl.constexpr,
    TALLY_BLOCK: tl.constexpr,
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
    token, plausible, kept, top_score, odd = _sweep(
        row, score_params, LOWEST_KEY, 0, NEVER, noise, DIVIDE, not TRUNCATE, False, BLOCK
    )
    status = tl.where(plausible == 0, NO_FINITE_GOOD, OK)
    if odd != 0:
        status = _diagnose(row, score_params, DIVIDE, BLOCK)
    if TRUNCATE:  # known to the compiler, unlike the status
        if status == OK:
            cut_key, ties = _find_cut(
                row,
                score_params,
                top_score,
                plausible,
                Truncation(top_k, top_p),
                DIVIDE,
                TALLY_BLOCK,
            )
            token, _, kept, _, _ = _sweep(
                row,
                score_params,
                cut_key,
                ties,
                top_score + score_params.log_min_p,
                noise,
                DIVIDE,
                True,
                True,
                BLOCK,
            )
    write(drawn, program, token, status, plausible, kept)
