"""Truncation of a short list of plausible tokens, and the draw from what it keeps.

The order is (score descending, token id ascending). top-k keeps its first k, top-p its shortest
prefix with top_p of the mass, min-p the tokens with min_p of the largest probability. A list of n
tokens needs no sort: the rank of a token is the number of tokens before it, counted pair by pair,
and the mass before it is summed in the same way. Masses are integers, exp(s_v - max s) in units of
1 / units, so their sums are exact in any order: where top-p cuts does not depend on the tiles, nor
on whether a row is finished here or by the dense kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.philox import gumbel, token_words
from cdgen.kernels.gpu.sampling.types import NEVER, NO_TOKEN

LANES = tl.constexpr(32)  # tiles of LANES x LANES pairs; most lists fit one


@triton.jit
def mass(score, top_score, units):
    """Return exp(score - top_score) as an integer number of 1 / units; 0 if the score is -inf."""
    weight = tl.exp(score.to(tl.float64) - top_score.to(tl.float64))
    return (weight * units + 0.5).to(tl.int64)


@triton.jit
def mass_limit(total, top_p):
    """Return the mass below which a token's predecessors must stay for it to be in the prefix."""
    return tl.ceil(total.to(tl.float64) * top_p).to(tl.int64)


@triton.jit
def best_of(key, tokens, best_key, best_token):
    """Return the larger key, then the lower id, of a tile and the best so far, which has lower
    ids."""
    tile_key = tl.max(key, 0)
    tile_token = tl.min(tl.where(key == tile_key, tokens, NO_TOKEN), 0)
    better = tile_key > best_key
    return tl.where(better, tile_key, best_key), tl.where(better, tile_token, best_token)


@triton.jit
def _entries(tokens, scores, n, start):
    """Return LANES entries of the list from `start` on: whether each exists, its token and
    score."""
    at = start + tl.arange(0, LANES)
    inside = at < n
    token = tl.load(tokens + at, mask=inside, other=NO_TOKEN)
    return inside, token, tl.load(scores + at, mask=inside, other=NEVER)


@triton.jit
def _before(tokens, scores, n, token, score, top_score, WEIGH: tl.constexpr, units):
    """Return [LANES] int64: how many of the list come before each (score, token); with WEIGH, their
    mass."""
    total = tl.zeros([LANES], tl.int64)
    for start in range(0, n, LANES):
        inside, other_token, other_score = _entries(tokens, scores, n, start)
        amount = inside.to(tl.int64)
        if WEIGH:
            amount = mass(other_score, top_score, units)
        first = (other_score[None, :] > score[:, None]) | (
            (other_score[None, :] == score[:, None]) & (other_token[None, :] < token[:, None])
        )
        total += tl.sum(tl.where(first, amount[None, :], 0), 1)
    return total


@triton.jit
def _top_k_cut(tokens, scores, n, top_score, top_k, units):
    """Return the (score, token) of rank top_k - 1. top_k is below n, so exactly one token has
    it."""
    cut_score, cut_token = NEVER, NO_TOKEN
    for start in range(0, n, LANES):
        inside, token, score = _entries(tokens, scores, n, start)
        rank = _before(tokens, scores, n, token, score, top_score, False, units)
        last = inside & (rank == top_k - 1)
        cut_score = tl.maximum(cut_score, tl.max(tl.where(last, score, NEVER), 0))
        cut_token = tl.minimum(cut_token, tl.min(tl.where(last, token, NO_TOKEN), 0))
    return cut_score, cut_token


@triton.jit
def _top_p_cut(tokens, scores, n, top_score, cut_score, cut_token, top_p, units):
    """Return the (score, token) at which the mass of what top-k kept reaches top_p of the total."""
    total = tl.zeros([LANES], tl.int64)
    for start in range(0, n, LANES):
        inside, token, score = _entries(tokens, scores, n, start)
        kept = (score > cut_score) | ((score == cut_score) & (token <= cut_token))
        total += tl.where(kept, mass(score, top_score, units), 0)
    limit = mass_limit(tl.sum(total, 0), top_p)
    cut_score, cut_token = NEVER, NO_TOKEN
    for start in range(0, n, LANES):
        inside, token, score = _entries(tokens, scores, n, start)
        before = _before(tokens, scores, n, token, score, top_score, True, units)
        through = before + mass(score, top_score, units)
        last = inside & (before < limit) & (through >= limit)
        cut_score = tl.maximum(cut_score, tl.max(tl.where(last, score, NEVER), 0))
        cut_token = tl.minimum(cut_token, tl.min(tl.where(last, token, NO_TOKEN), 0))
    return cut_score, cut_token


@triton.jit
def draw_truncated(
    row, n, top_score, lists, score_params, truncation, noise, CAPACITY: tl.constexpr
):
    """Return how many of n plausible tokens truncation keeps, and the winner among them."""
    tokens, scores = lists.tokens + row * CAPACITY, lists.scores + row * CAPACITY
    cut_score, cut_token = NEVER, NO_TOKEN
    if (truncation.top_k > 0) & (truncation.top_k < n):
        cut_score, cut_token = _top_k_cut(
            tokens, scores, n, top_score, truncation.top_k, score_params.mass_units
        )
    if truncation.top_p < 1:
        cut_score, cut_token = _top_p_cut(
            tokens,
            scores,
            n,
            top_score,
            cut_score,
            cut_token,
            truncation.top_p,
            score_params.mass_units,
        )
    least_score = top_score + score_params.log_min_p
    kept, best_token, best_key = 0, NO_TOKEN, NEVER
    for start in range(0, n, LANES):
        inside, token, score = _entries(tokens, scores, n, start)
        keep = (score > cut_score) | ((score == cut_score) & (token <= cut_token))
        keep &= inside & (score >= least_score)
        key = score
        if score_params.temperature != 0:
            key += gumbel(token_words(token, noise))
        best_key, best_token = best_of(tl.where(keep, key, NEVER), token, best_key, best_token)
        kept += tl.sum(keep.to(tl.int32), 0)
    return kept, best_token
