"""The slot engine: a fixed number of rows in lockstep, each refilled as soon as it finishes.

One step feeds every slot its next token, of the prompt or of the continuation, to GOOD and BAD,
and draws where the prompt is used up. A sequence's tokens depend on (seed, sequence id, prompt)
alone: not on its slot, its neighbours, or when it was admitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from cdgen.decoder import Decoder
from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams

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


@dataclass
class Sequence:
    """A sequence being written, or finished."""

    sequence_id: int
    tokens: list[int]
    prompt_tokens: int
    finish_reason: FinishReason | None = None
    plausible: int = 0  # sum over the drawn tokens of the plausible set's size
    good_logprob: float | None = None  # nats, summed over the continuation

    @classmethod
    def start(cls, request: Request) -> Sequence:
        return cls(request.sequence_id, list(request.prompt), len(request.prompt))

    @property
    def new_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    def append(self, token: int, status: int, plausible: int, limits: Limits) -> None:
        """Takes one draw and decides whether the sequence goes on."""
        if status != RowStatus.OK:
            self.finish_reason = "quarantined"
            return
        self.tokens.append(token)
        self.plausible += plausible
        if limits.stop_on_eos and token in limits.eos_token_ids:
            self.finish_reason = "eos"
        elif self.new_tokens >= limits.max_new_tokens:
            self.finish_reason = "length"


@dataclass(frozen=True)
class StepReport:
    """What one step did, for progress."""

    drawn: int
    plausible: int


@dataclass
class SlotEngine:
    """GOOD and BAD decoders of `slots` rows each (BAD None where bad_weight is 0)."""

    good: Decoder
    bad: Decoder | None
    params: SamplingParams
    limits: Limits
    seed: int
    vocab_size: int
    logprobs: bool = False
    on_step: Callable[[StepReport], None] = field(default=lambda report: None)

    @property
    def is_tiny(self) -> bool:
        """Whether a product of [slots, width] x [width, width] is too short to share: under a
        million multiply-adds, ten microseconds, waking a second thread costs more than it saves."""
        return self.good.slots * self.good.config.width**2 < 1 << 20

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request]) -> Iterator[Sequence]:
        """Sequences in the order in which they finish."""
        waiting = iter(requests)
        slots: list[Sequence | None] = [None] * self.good.slots
        tokens, positions, ids = torch.zeros(3, len(slots), dtype=torch.int64).unbind(0)
        # The same memory as NumPy sees it: single elements are ten times cheaper to set there.
        token, position, sequence_id = tokens.numpy(), positions.numpy(), ids.numpy()
        while True:
            for row, sequence in enumerate(slots):
                if sequence is None and (request := next(waiting, None)):
                    slots[row] = Sequence.start(request)
                    position[row], sequence_id[row] = 0, request.sequence_id
            if not any(slots):
                return
            for row, sequence in enumerate(slots):
                if sequence:
                    token[row] = sequence.tokens[position[row]]
            self._step(slots, tokens, positions, ids)
            for row, sequence in enumerate(slots):
                position[row] += 1
                if sequence and sequence.finish_reason:
                    yield sequence
                    slots[row] = None
                if slots[row] is None:
                    position[row] = 0

    def _step(
        self,
        slots: list[Sequence | None],
        tokens: torch.Tensor,  # [B] int64
        positions: torch.Tensor,  # [B] int64
        ids: torch.Tensor,  # [B] int64
    ) -> None:
        hidden = self.good.forward(tokens, positions, ids)
        bad_hidden = self.bad.forward(tokens, positions, ids) if self.bad else None
        position = positions.tolist()
        drawing = [
            (row, sequence)
            for row, sequence in enumerate(slots)
            if sequence and position[row] == len(sequence.tokens) - 1
        ]
        if not drawing:
            return self.on_step(StepReport(0, 0))
        logits = self.good.logits(hidden)
        out = self._sample(logits, bad_hidden, ids, positions + 1)
        logprob = log_probs(logits, out.tokens, self.vocab_size) if self.logprobs else None
        self.on_step(take_draws(drawing, out, logprob, self.limits))

    def _sample(
        self,
        logits: torch.Tensor,  # [B, V]
        bad_hidden: torch.Tensor | None,  # [B, D]
        ids: torch.Tensor,  # [B]
        positions: torch.Tensor,  # [B]: of the tokens to draw
    ) -> SampleOutput:
        """BAD's logits only at plausible tokens, unless alpha = 0 makes every token plausible."""
        draw: dict[str, Any] = {
            "seed": self.seed, "sequence_ids": ids, "positions": positions,
            "vocab_size": self.vocab_size,
        }  # fmt: skip
        if self.bad is None or bad_hidden is None:
            return sample_contrastive(logits, None, self.params, **draw)
        if self.params.alpha == 0:
            return sample_contrastive(logits, self.bad.logits(bad_hidden), self.params, **draw)
        head = self.bad.head_weight
        return sample_contrastive_heads(logits, bad_hidden, head, self.params, **draw)


def take_draws(
    drawing: list[tuple[int, Sequence]],
    out: SampleOutput,
    logprob: np.ndarray | None,  # [B] float64, GOOD's of each draw
    limits: Limits,
) -> StepReport:
    """Hands every sequence that draws in this step the token of its row."""
    token, status, plausible = out.tokens.tolist(), out.status.tolist(), out.plausible.tolist()
    for row, sequence in drawing:
        sequence.append(token[row], status[row], plausible[row], limits)
        if logprob is not None and status[row] == RowStatus.OK:
            sequence.good_logprob = (sequence.good_logprob or 0.0) + float(logprob[row])
    return StepReport(
        drawn=sum(status[row] == RowStatus.OK for row, _ in drawing),
        plausible=sum(plausible[row] for row, _ in drawing),
    )


def log_probs(
    logits: torch.Tensor,  # [B, V]
    tokens: torch.Tensor,  # [B] int64, -1 where nothing was drawn
    vocab_size: int,
) -> np.ndarray:  # [B] float64, nats
    """GOOD's log-probability of each drawn token, at temperature 1."""
    columns = logits[:, :vocab_size]
    chosen = columns.gather(1, tokens.clamp(min=0)[:, None])[:, 0]
    return (chosen.double() - columns.double().logsumexp(-1)).numpy()
