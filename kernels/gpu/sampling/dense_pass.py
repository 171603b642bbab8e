"""One pass over a row that draws, or finds the largest scores; most of the work at alpha 0.

Noise would be its bottleneck, so no logarithm is taken where it cannot matter: gumbel <= -log u, so
a token cannot win if its u exceeds exp(its score - best key). Tiles are tested by the smallest u
and the largest score of every four tokens that share a Philox block, and token by token if that
does not exclude them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from cdgen.kernels.gpu.philox import gumbel, in_token_order, philox_words
from cdgen.kernels.gpu.sampling.dense_row import load_tile, score_tile
from cdgen.kernels.gpu.sampling.draw import combine, is_finite
from cdgen.kernels.gpu.sampling.truncate import best_of
from cdgen.kernels.gpu.sampling.types import (
    BAD_NOT_FINITE,
    GOOD_NOT_FINITE,
    NEVER,
    NO_FINITE_GOOD,
    NO_TOKEN,
    OK,
    SCORE_OVERFLOW,
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
def draw_tile(score, start, noise, score_params, best_key, best_token, BLOCK: tl.constexpr):
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
    WHOLE: tl.constexpr,  # all of the tile lies in the row; read if it has no threshold
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
        best_key, best_token = draw_tile(
            score, start, noise, score_params, best_key, best_token, BLOCK
        )
    else:
        top = tl.where(score > top, score, top)  # not NaN, on a GPU and interpreted
    return Pass(best_key, best_token, top, magnitude, count)


@triton.jit
def first_pass(
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
    whole = row.vocab  # a row with a threshold is masked in every tile, the last one included
    if row.threshold is None:
        whole = row.vocab // BLOCK * BLOCK
    g_next, b_next = load_tile(row, 0, BLOCK)
    for start in range(0, whole, BLOCK):
        g, b = g_next, b_next
        g_next, b_next = load_tile(row, start + BLOCK, BLOCK)  # loaded while this tile is processed
        state = _take_tile(row, g, b, start, score_params, noise, state, DIVIDE, DRAW, True, BLOCK)
    if row.threshold is None:
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
        plausible_lanes += plausible.to(tl.int32)
        why = tl.where(is_finite(score), 0, 4)
        if row.bad is not None:
            why |= tl.where(is_finite(b.to(tl.float32)), 0, 2)
        why |= tl.where(is_finite(g.to(tl.float32)), 0, 1)
        ways |= tl.where(plausible, why, 0)
    plausible = tl.sum(plausible_lanes, 0)
    status = tl.where(plausible == 0, NO_FINITE_GOOD, OK)
    status = tl.where(tl.max(ways & 4, 0) > 0, SCORE_OVERFLOW, status)
    status = tl.where(tl.max(ways & 2, 0) > 0, BAD_NOT_FINITE, status)
    return plausible, tl.where(tl.max(ways & 1, 0) > 0, GOOD_NOT_FINITE, status)
