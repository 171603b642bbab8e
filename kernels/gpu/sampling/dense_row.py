"""A row of logits that is read tile by tile: loading a tile, and scoring it."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from cdgen.kernels.gpu.sampling.draw import combine
from cdgen.kernels.gpu.sampling.types import (
    NEVER,
)


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
