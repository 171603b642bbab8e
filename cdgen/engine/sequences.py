"""Requests that go into an engine, and sequences that come out."""

from __future__ import annotations

from dataclasses import dataclass

from cdgen.finish_reason import FinishReason


@dataclass(frozen=True)
class Request:
    """One sequence to write: its id in the plan and the token ids of its prompt (at least one)."""

    sequence_id: int
    prompt: list[int]


@dataclass(frozen=True)
class Limits:
    """The conditions that end a sequence. End-of-text tokens are drawn and kept; they end the
    sequence only if `stop_on_eos`."""

    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    stop_on_eos: bool

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens that end a sequence."""
        return self.eos_token_ids if self.stop_on_eos else ()


@dataclass
class Sequence:
    """A sequence that is being written or is finished."""

    sequence_id: int
    tokens: list[int]
    prompt_tokens: int
    finish_reason: FinishReason | None = None
    plausible: int = 0  # size of the plausible set, summed over the drawn tokens
    good_logprob: float | None = None  # nats, summed over the continuation

    @property
    def new_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens


@dataclass(frozen=True)
class StepReport:
    """The counts of one step, for progress."""

    drawn: int  # tokens
    plausible: int  # size of the plausible set, summed over them
