"""Constants and records that the sampling kernels share."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton.language as tl

NEVER = tl.constexpr(float("-inf"))  # the score of a token that cannot be drawn
NO_TOKEN = tl.constexpr(2**31 - 1)

# The values of RowStatus; PENDING marks a row for the dense kernel.
OK, GOOD_NOT_FINITE, NO_FINITE_GOOD, BAD_NOT_FINITE, SCORE_OVERFLOW, PENDING = (
    tl.constexpr(value) for value in (0, 1, 2, 3, 4, 255)
)


class ScoreParams(NamedTuple):
    """The fp32 numbers of `SamplingParams`; a temperature of 0 is greedy."""

    good_weight: Any
    bad_weight: Any
    temperature: Any
    log_alpha: Any
    log_min_p: Any
    mass_units: Any  # units per 1 of probability mass, a power of two


class Truncation(NamedTuple):
    """The parameters of truncation that are not fp32."""

    top_k: Any  # 0: off
    top_p: Any  # float64; 1: off


class Bad(NamedTuple):
    """The source of BAD's logits: a matrix of them, or hidden states and a head, or neither."""

    logits: Any = None  # [B, V]
    logits_stride: Any = None
    hidden: Any = None  # [B, D]
    hidden_stride: Any = None
    head: Any = None  # [V, D]
    head_stride: Any = None
    bias: Any = None  # [V]
    width: Any = None  # D


class Lists(NamedTuple):
    """Scratch memory for each row; None if a launch does not need it."""

    tokens: Any  # [B, CAPACITY | SORTED] int32: plausible tokens, or those near the top, ascending
    scores: Any  # like tokens, float32: their scores, for truncation
    groups: Any = None  # [B, BLOCK / 4] int32: groups of four lanes with a plausible maximum


class Drawn(NamedTuple):
    """The tensors of a `SampleOutput`."""

    tokens: Any
    status: Any
    plausible: Any
    kept: Any
