"""Second half of a draw: scores, truncation and the winner, on the collected tokens alone.

    s_v = (w_g g_v - w_b b_v) / T on P;  truncation in the order (s descending, v ascending);
    winner = argmax over what is kept of s_v + gumbel_v, ties to the lowest v.
BAD is read, or its dot products are taken, at the tokens of P alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from cdgen.kernels.gpu.philox import gumbel, token_words
from cdgen.kernels.gpu.sampling.collect import NEVER
from cdgen.kernels.gpu.sampling.heads import dot_products
from cdgen.kernels.gpu.sampling.truncate import NO_TOKEN, best_of, draw_truncated

# The values of RowStatus; PENDING marks a row for the dense kernel.
OK, GOOD_NOT_FINITE, NO_FINITE_GOOD, BAD_NOT_FINITE, SCORE_OVERFLOW, PENDING = (
    tl.constexpr(value) for value in (0, 1, 2, 3, 4, 255)
)


class Rule(NamedTuple):
    """The numbers of `SamplingParams` that are fp32; a temperature of 0 is greedy."""

    good_weight: Any
    bad_weight: Any
    temperature: Any
    log_alpha: Any
    log_min_p: Any
    mass_units: Any  # per 1 of mass: a power of two


class Lists(NamedTuple):
    """Scratch of each row; None where a launch does not need it."""

    tokens: Any  # [B, CAPACITY] int32: plausible tokens, ascending
    scores: Any  # [B, CAPACITY] float32: theirs, with truncation
    groups: Any  # [B, BLOCK / 4] int32: lanes, by fours, with a plausible maximum


class Drawn(NamedTuple):
    """The tensors of a `SampleOutput`."""

    tokens: Any
    status: Any
    plausible: Any
    kept: Any


@triton.jit
def write(drawn, row, token, status, plausible, kept):
    """A row's outcome; where it could not be sampled, the status alone says anything."""
    drew = status == OK
    tl.store(drawn.tokens + row, tl.where(drew, token, -1).to(tl.int64))
    tl.store(drawn.status + row, status.to(tl.uint8))
    tl.store(drawn.plausible + row, tl.where(drew, plausible, 0))
    tl.store(drawn.kept + row, tl.where(drew, kept, 0))


@triton.jit
def is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def combine(g, b, rule, HAS_BAD: tl.constexpr, DIVIDE: tl.constexpr):
    """The score, each step rounded to fp32 as the reference rounds it."""
    score = rule.good_weight * g
    if HAS_BAD:
        score = score - rule.bad_weight * b
    if DIVIDE:
        divisor = tl.where(rule.temperature == 0, 1.0, rule.temperature)
        score = tl.div_rn(score, divisor + tl.zeros_like(score))
    return score


@triton.jit
def worse_status(status, plausible, b, score):
    """What one tile's plausible tokens make of a row's status so far."""
    overflow = tl.max((plausible & ~is_finite(score)).to(tl.int32), 0)
    broken = tl.max((plausible & ~is_finite(b)).to(tl.int32), 0)
    tile = tl.where(broken > 0, BAD_NOT_FINITE, tl.where(overflow > 0, SCORE_OVERFLOW, OK))
    return tl.where((status == BAD_NOT_FINITE) | (tile == OK), status, tile)


@triton.jit
def bad_logits(bad, row, tokens, wanted, BLOCK_D: tl.constexpr):
    """[N] float32: BAD's logits of [N] tokens, 0 where not wanted or where BAD is not read."""
    b = tl.zeros([tokens.shape[0]], tl.float32)
    if bad.logits is not None:
        at = bad.logits + row * bad.logits_stride + tokens
        b = tl.load(at, mask=wanted, other=0.0).to(tl.float32)
    if bad.head is not None:
        b = dot_products(bad, row, tokens, wanted, BLOCK_D)
    return b


@triton.jit
def draw_from_list(row, n, good, bad, rule, top_k, top_p, noise, lists, TRUNCATE: tl.constexpr,
                   CAPACITY: tl.constexpr, LANES: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """Token, status and kept of a row of logits `good`, from its n <= CAPACITY plausible tokens."""
    HAS_BAD: tl.constexpr = (bad.logits is not None) or (bad.head is not None)
    status = tl.full([], OK, tl.int32)
    best_token, best_key, top_score = NO_TOKEN, NEVER, NEVER
    for start in range(0, n, LANES):
        at = start + tl.arange(0, LANES)
        inside = at < n
        token = tl.load(lists.tokens + row * CAPACITY + at, mask=inside, other=0)
        g = tl.load(good + token, mask=inside, other=NEVER).to(tl.float32)
        b = bad_logits(bad, row, token, inside, BLOCK_D)
        score = tl.where(inside, combine(g, b, rule, HAS_BAD, True), NEVER)
        status = worse_status(status, inside, b, score)
        top_score = tl.maximum(top_score, tl.max(score, 0))
        if TRUNCATE:
            tl.store(lists.scores + row * CAPACITY + at, score, mask=inside)
        else:
            key = score
            if rule.temperature != 0:
                key += gumbel(token_words(token, noise))
            best_key, best_token = best_of(key, token, best_key, best_token)
    kept = n
    if TRUNCATE:  # known to the compiler, unlike the status
        if status == OK:
            tl.debug_barrier()  # each thread wrote a part of the scores and reads another
            kept, best_token = draw_truncated(
                row, n, top_score, lists, rule, top_k, top_p, noise, CAPACITY
            )
    return best_token, status, kept
