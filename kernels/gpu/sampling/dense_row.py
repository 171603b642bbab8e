"""A row that is read tile by tile: loading a tile, scoring it, and the order of scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from cdgen.kernels.gpu.sampling.draw import combine
from cdgen.kernels.gpu.sampling.types import NEVER

LOWEST_KEY = tl.constexpr(-(2**31))  # below the key of every score


class Row(NamedTuple):
    """One row of logits, as the passes over it need it."""

    good: Any  # its first logit
    bad: Any  # its first logit, or None if BAD is not read
    vocab: Any
    readable: Any
    threshold: Any  # for GOOD's logits; None if every finite one is plausible


@triton.jit
def load_tile(row, start, BLOCK: tl.constexpr):
    """Load the logits of a tile; beyond the row, GOOD's are -inf."""
    token = start + tl.arange(0, BLOCK)
    g = tl.load(row.good + token, mask=token < row.readable, other=NEVER)
    b = g
    if row.bad is not None:
        b = tl.load(row.bad + token, mask=token < row.readable, other=0.0)
    return g, b


@triton.jit
def score_tile(row, g, b, start, score_params, DIVIDE: tl.constexpr, BLOCK: tl.constexpr):
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
def order_key(score):
    """Return an int32 in the order of the scores (-0.0 like 0.0); `score_of_key` is its
    inverse."""
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def score_of_key(key):
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)
