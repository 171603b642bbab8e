"""The state of the running batch and one step of it, as tensor operations of fixed shape.

A slot holds a sequence: the token to feed next, its position, the prompt, whether it is alive. One
step feeds every slot to GOOD and BAD, draws, and decides what comes next: the prompt's next token,
the drawn one, or nothing. No value travels to the host, so that on a GPU a step, or several, are
one CUDA graph. A slot that is not alive repeats token 0 at position 0; nobody reads what it draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch

from cdgen.decoder import Decoder
from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams
from cdgen.sequences import Limits


class Event(IntEnum):
    """What a step did to a slot."""

    NOTHING = 0  # it is empty, or the prompt is not used up
    DRAWN = 1
    EOS = 2  # drawn, and the last
    LENGTH = 3  # likewise
    QUARANTINED = 4  # could not be drawn


@dataclass
class Draw:
    """How a token is drawn from both models' hidden states."""

    good: Decoder
    bad: Decoder | None  # None: alone, or stacked on GOOD, BAD's rows after GOOD's
    params: SamplingParams
    seed: int
    vocab_size: int

    def __post_init__(self) -> None:
        on_gpu = self.good.device.type == "cuda"
        self._beside = torch.cuda.Stream(self.good.device) if self.bad and on_gpu else None

    @property
    def stacked(self) -> bool:
        return self.good.rows > self.good.slots

    def hidden(
        self, tokens: torch.Tensor, positions: torch.Tensor, sequence_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # [B, D] of GOOD, [B, D'] of BAD
        if self.bad is None:
            hidden = self.good.forward(tokens, positions, sequence_ids)
            slots = self.good.slots
            return hidden[:slots], hidden[slots:] if self.stacked else None
        if self._beside is None:
            bad_hidden = self.bad.forward(tokens, positions, sequence_ids)
            return self.good.forward(tokens, positions, sequence_ids), bad_hidden
        # Two shapes fill one GPU from two streams, inside a graph too. What BAD allocates on its
        # own stream is only used again there after the next wait for this one.
        here = torch.cuda.current_stream()
        self._beside.wait_stream(here)
        try:
            with torch.cuda.stream(self._beside):
                bad_hidden = self.bad.forward(tokens, positions, sequence_ids)
            hidden = self.good.forward(tokens, positions, sequence_ids)
        finally:  # a capture that ends with streams apart would hide what went wrong
            here.wait_stream(self._beside)
        return hidden, bad_hidden

    def sample(
        self,
        logits: torch.Tensor,  # [B, V], GOOD's
        bad_hidden: torch.Tensor | None,  # [B, D']
        sequence_ids: torch.Tensor,  # [B]
        positions: torch.Tensor,  # [B]: of the tokens to draw
    ) -> SampleOutput:
        """BAD's logits only at plausible tokens, unless alpha = 0 makes every token plausible."""
        draw: dict[str, Any] = {
            "seed": self.seed, "sequence_ids": sequence_ids, "positions": positions,
            "vocab_size": self.vocab_size,
        }  # fmt: skip
        if bad_hidden is None:
            return sample_contrastive(logits, None, self.params, **draw)
        bad, model = self._bad_head()
        if self.params.alpha == 0:
            return sample_contrastive(logits, bad.logits(bad_hidden, model), self.params, **draw)
        head = bad.head_weight(model)
        return sample_contrastive_heads(logits, bad_hidden, head, self.params, **draw)

    def _bad_head(self) -> tuple[Decoder, int]:
        """Whose head: of a stack the last model's, which is GOOD's own where BAD is its dropout."""
        return (self.bad, 0) if self.bad else (self.good, self.good.models - 1)


class Slots:
    """B slots on the decoders' device."""

    def __init__(self, draw: Draw, limits: Limits, prompt_capacity: int, logprobs: bool) -> None:
        self.draw, self.limits = draw, limits
        slots, device = draw.good.slots, draw.good.device
        # Token to feed, its position, sequence id, tokens of the prompt.
        self.state = torch.zeros(4, slots, dtype=torch.int64, device=device)
        self.prompts = torch.zeros(slots, prompt_capacity, dtype=torch.int64, device=device)
        self.alive = torch.zeros(slots, dtype=torch.bool, device=device)
        self.stops = torch.tensor(limits.stops, dtype=torch.int64, device=device)
        self.logprobs = logprobs

    def step(
        self,
        record: torch.Tensor,  # [3, B] int32, written: Event, token, size of the plausible set
        logprob: torch.Tensor,  # [B] float64, written where `logprobs`: GOOD's of the token, nats
    ) -> None:
        tokens, positions, ids, prompt_tokens = self.state
        hidden, bad_hidden = self.draw.hidden(tokens, positions, ids)
        logits = self.draw.good.logits(hidden)
        following = positions + 1
        out = self.draw.sample(logits, bad_hidden, ids, following)
        drawing = self.alive & (following >= prompt_tokens)
        event = self._event(out, following - prompt_tokens + 1).masked_fill(~drawing, Event.NOTHING)
        record[0], record[1], record[2] = event, out.tokens, out.plausible
        if self.logprobs:
            logprob.copy_(log_probs(logits, out.tokens, self.draw.vocab_size))
        self.alive &= event <= Event.DRAWN
        last = self.prompts.shape[1] - 1
        from_prompt = self.prompts.gather(1, following.clamp(max=last)[:, None])[:, 0]
        self.state[0] = torch.where(drawing, out.tokens, from_prompt) * self.alive
        self.state[1] = following * self.alive

    def _event(
        self,
        out: SampleOutput,
        new_tokens: torch.Tensor,  # [B] of each continuation, this draw counted
    ) -> torch.Tensor:  # [B] int64
        is_stop = (out.tokens[:, None] == self.stops).any(1)
        event = torch.full_like(new_tokens, Event.DRAWN)
        event.masked_fill_(new_tokens >= self.limits.max_new_tokens, Event.LENGTH)
        event.masked_fill_(is_stop, Event.EOS)
        return event.masked_fill_(out.status != RowStatus.OK, Event.QUARANTINED)


def log_probs(
    logits: torch.Tensor,  # [B, V]
    tokens: torch.Tensor,  # [B] int64, -1 where nothing was drawn
    vocab_size: int,
) -> torch.Tensor:  # [B] float64, nats
    """GOOD's log-probability of each drawn token, at temperature 1."""
    columns = logits[:, :vocab_size]
    chosen = columns.gather(1, tokens.clamp(min=0)[:, None])[:, 0]
    return chosen.double() - columns.double().logsumexp(-1)
