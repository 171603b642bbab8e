"""Parameters of a draw (contrast, temperature, truncation) and its output."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch


class RowStatus(IntEnum):
    """Outcome of a row's draw. A row that is not OK has token -1; other rows are not affected."""

    OK = 0
    GOOD_NOT_FINITE = 1  # one of GOOD's logits is NaN or +inf
    NO_FINITE_GOOD = 2  # every logit of GOOD is -inf, so no token is plausible
    BAD_NOT_FINITE = 3  # BAD's logit of a plausible token is NaN or +-inf
    SCORE_OVERFLOW = 4  # the logits are finite, but a score is beyond fp32


_FP32_MAX = 3.4028234663852886e38


def fp32(value: float) -> float:
    """Round `value` to fp32, as every backend does with weights and temperature (1e-60 is 0)."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of score = (good_weight * g - bad_weight * b) / temperature on the plausible set.

    The plausible set of GOOD's logits g is { v : g_v >= max g + ln(alpha) } (Li et al. 2023,
    section 3.3). good_weight = bad_weight = 1 is the form of Li et al.; weights 1 + beta and beta
    are the form of O'Brien and Lewis (2023); with bad_weight = 0, BAD is not read. temperature = 0
    is greedy: it takes the argmax of the score at temperature 1. top_k, top_p and min_p truncate
    the scores, in that order; top_k = 0, top_p = 1 and min_p = 0 switch them off.

    A token that the mask or truncation removes is never drawn, unless `masked_score` gives it that
    score: Ulm et al. 2025 mask with -20 nats, so that now and then such a token is drawn. The other
    scores are then those of log-probabilities, as in (good_weight * log p_GOOD - bad_weight *
    log p_BAD) / temperature, and the backend is the reference: no kernel does this.

    Raises ValueError on a value outside its range.
    """

    good_weight: float = 1.0
    bad_weight: float = 1.0
    alpha: float = 0.1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    masked_score: float | None = None

    def __post_init__(self) -> None:
        numbers = ["good_weight", "bad_weight", "alpha", "temperature", "top_p", "min_p"]
        if self.masked_score is not None:
            numbers.append("masked_score")
        for name in numbers:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not abs(value) <= _FP32_MAX:
                raise ValueError(f"{name}: expected a finite number within fp32, got {value!r}")
        if self.bad_weight < 0:
            raise ValueError(f"bad_weight: expected 0 or more, got {self.bad_weight}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha: expected a number in [0, 1], got {self.alpha}")
        if self.temperature < 0:
            raise ValueError(f"temperature: expected 0 or more, got {self.temperature}")
        if not isinstance(self.top_k, int) or not 0 <= self.top_k < 2**31:
            raise ValueError(f"top_k: expected an integer of 0 or more, got {self.top_k!r}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a number in (0, 1], got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p: expected a number in [0, 1], got {self.min_p}")

    @property
    def log_alpha(self) -> float:
        """Return ln(alpha), -inf for alpha = 0."""
        return math.log(self.alpha) if self.alpha > 0 else -math.inf

    @property
    def log_min_p(self) -> float:
        """Return ln(min_p), -inf for min_p = 0."""
        return math.log(self.min_p) if self.min_p > 0 else -math.inf


@dataclass(frozen=True)
class SampleOutput:
    """One draw per row."""

    tokens: torch.Tensor  # [B] int64, -1 unless status is OK
    status: torch.Tensor  # [B] uint8, a RowStatus
    plausible: torch.Tensor  # [B] int32, size of the plausible set, 0 unless status is OK
    kept: torch.Tensor  # [B] int32, how many plausible tokens truncation keeps

    def of_rows(self, rows: Sequence[int]) -> SampleOutput:
        """Return the draws of some rows."""
        return SampleOutput(*(x[rows] for x in vars(self).values()))
