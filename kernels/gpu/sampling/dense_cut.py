"""The cut that truncation makes in a row of any length, found bit by bit.

A score is turned into an integer of the same order. Each pass over the row fixes four of its 32
bits from the 16 counts, or masses, at and above 16 candidates. Masses are integers (truncate.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.sampling.dense_row import (
    LOWEST_KEY,
    load_tile,
    order_key,
    score_of_key,
    score_tile,
)
from cdgen.kernels.gpu.sampling.truncate import mass, mass_limit


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
    # A sum for every lane: one over all lanes in each tile would cost a barrier and ten times the
    # instructions.
    total = tl.zeros([16, BLOCK], tl.int64 if WEIGH else tl.int32)
    for start in range(0, row.vocab, BLOCK):
        g, b = load_tile(row, start, BLOCK)
        plausible, score = score_tile(row, g, b, start, score_params, DIVIDE, BLOCK)
        key = tl.where(plausible, order_key(score), LOWEST_KEY)
        if WEIGH:
            amount = tl.where(key > least_key, mass(score, top_score, score_params.mass_units), 0)
        else:
            amount = plausible.to(tl.int32)
        total += tl.where(key[None, :] >= keys[:, None], amount[None, :], 0)
    return tl.sum(total.to(tl.int64), 1)


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
def find_cut(
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
        tie_mass = ties * mass(score_of_key(cut_key), top_score, score_params.mass_units)
    if truncation.top_p < 1:
        everything = tl.full([16], LOWEST_KEY, tl.int32)
        total = _tally(row, score_params, top_score, everything, cut_key, DIVIDE, True, BLOCK)
        limit = mass_limit(tl.max(total, 0) + tie_mass, truncation.top_p)
        cut_key, above = _last_key(
            row, score_params, top_score, limit, cut_key, tie_mass, DIVIDE, True, BLOCK
        )
        one = mass(score_of_key(cut_key), top_score, score_params.mass_units)
        ties = (limit - above + one - 1) // one
    return cut_key, ties
