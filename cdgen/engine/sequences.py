"""What every engine is given and gives back: requests, limits, sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["eos", "length", "quarantined"]


@dataclass(frozen=True)
class Request:
    """One sequence to write: its id in the plan and its prompt's token ids (at least one)."""

    sequence_id: int
    prompt: list[int]


@dataclass(frozen=True)
class Limits:
    """When a sequence ends; end-of-text tokens are drawn and kept, and end it only on request."""

    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    stop_on_eos: bool

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens that end a sequence."""
        return self.eos_token_ids if self.stop_on_eos else ()


@dataclass
class Sequence:
    """A sequence being written, or finished."""

    sequence_id: int
    tokens: list[int]
    prompt_tokens: int
    finish_reason: FinishReason | None = None
    plausible: int = 0  # sum over the drawn tokens of the plausible set's size
    good_logprob: float | None = None  # nats, summed over the continuation

    @property
    def new_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens


@dataclass(frozen=True)
class StepReport:
    """What one step did, for progress."""

    drawn: int
    plausible: int
