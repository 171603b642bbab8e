"""The second half of a draw: scores, truncation and the winner, on the collected tokens only.

    s_v = (w_g g_v - w_b b_v) / T on P;  truncation in the order (s descending, v ascending);
    winner = argmax over the kept tokens of s_v + gumbel_v, ties to the lowest v.

BAD is read, or its dot products are computed, at the tokens of P only.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.philox import gumbel, token_words
from cdgen.kernels.gpu.sampling.heads import dot_products
from cdgen.kernels.gpu.sampling.truncate import best_of, draw_truncated
from cdgen.kernels.gpu.sampling.types import BAD_NOT_FINITE, NEVER, NO_TOKEN, OK, SCORE_OVERFLOW


@triton.jit
def write(drawn, row, token, status, plausible, kept):
    """Write the outcome of a row. If it could not be sampled, the status is its only
    information."""
    drew = status == OK
    tl.store(drawn.tokens + row, tl.where(drew, token, -1).to(tl.int64))
    tl.store(drawn.status + row, status.to(tl.uint8))
    tl.store(drawn.plausible + row, tl.where(drew, plausible, 0))
    tl.store(drawn.kept + row, tl.where(drew, kept, 0))


@triton.jit
def is_finite(x):
    return x - x == 0  # infinity and NaN give NaN


@triton.jit
def combine(g, b, score_params, HAS_BAD: tl.constexpr, DIVIDE: tl.constexpr):
    """Return the score, with each step rounded to fp32 as in the reference."""
    score = score_params.good_weight * g
    if HAS_BAD:
        score = score - score_params.bad_weight * b
    if DIVIDE:
        divisor = tl.where(score_params.temperature == 0, 1.0, score_params.temperature)
        score = tl.div_rn(score, divisor + tl.zeros_like(score))
    return score


@triton.jit
def worse_status(status, plausible, b, score):
    """Return a row's status after one tile of plausible tokens, given its status before."""
    overflow = tl.max((plausible & ~is_finite(score)).to(tl.int32), 0)
    broken = tl.max((plausible & ~is_finite(b)).to(tl.int32), 0)
    tile = tl.where(broken > 0, BAD_NOT_FINITE, tl.where(overflow > 0, SCORE_OVERFLOW, OK))
    return tl.where((status == BAD_NOT_FINITE) | (tile == OK), status, tile)


@triton.jit
def bad_logits(bad, row, tokens, wanted, BLOCK_D: tl.constexpr):
    """Return [N] float32: BAD's logits of [N] tokens, 0 for unwanted ones or if BAD is not read."""
    b = tl.zeros([tokens.shape[0]], tl.float32)
    if bad.logits is not None:
        at = bad.logits + row * bad.logits_stride + tokens
        b = tl.load(at, mask=wanted, other=0.0).to(tl.float32)
    if bad.head is not None:
        b = dot_products(bad, row, tokens, wanted, BLOCK_D)
    return b


@triton.jit
def draw_from_list(
    row,
    n,
    good,
    bad,
    score_params,
    truncation,
    noise,
    lists,
    TRUNCATE: tl.constexpr,
    CAPACITY: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return token, status and kept of a row of logits `good`, from its n <= CAPACITY plausible
    tokens."""
    HAS_BAD: tl.constexpr = (bad.logits is not None) or (bad.head is not None)
    status = tl.full([], OK, tl.int32)
    best_token, best_key, top_score = NO_TOKEN, NEVER, NEVER
    for start in range(0, n, LANES):
        at = start + tl.arange(0, LANES)
        inside = at < n
        token = tl.load(lists.tokens + row * CAPACITY + at, mask=inside, other=0)
        g = tl.load(good + token, mask=inside, other=NEVER).to(tl.float32)
        b = bad_logits(bad, row, token, inside, BLOCK_D)
        score = tl.where(inside, combine(g, b, score_params, HAS_BAD, True), NEVER)
        status = worse_status(status, inside, b, score)
        top_score = tl.maximum(top_score, tl.max(score, 0))
        if TRUNCATE:
            tl.store(lists.scores + row * CAPACITY + at, score, mask=inside)
        else:
            key = score
            if score_params.temperature != 0:
                key += gumbel(token_words(token, noise))
            best_key, best_token = best_of(key, token, best_key, best_token)
    kept = n
    if TRUNCATE:  # known to the compiler, unlike the status
        if status == OK:
            tl.debug_barrier()  # each thread reads scores that others wrote
            kept, best_token = draw_truncated(
                row, n, top_score, lists, score_params, truncation, noise, CAPACITY
            )
    return best_token, status, kept
