"""The reasons for which a sequence ends."""

from __future__ import annotations

from typing import Literal, get_args

FinishReason = Literal["eos", "length", "quarantined"]
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)
