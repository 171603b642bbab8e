"""The state of the running batch and one step of it, as tensor operations of fixed shape.

A slot holds a sequence: the token to feed next, its position, the prompt, whether it is alive. One
step feeds every slot to GOOD and BAD, draws, and decides what comes next: the prompt's next token,
the drawn one, or nothing. No value travels to the host, so that on a GPU a step, or several, are
one CUDA graph. A slot that is not alive repeats token 0 at position 0; nobody reads what it draws.
"""

from __future__ import annotations

from enum import IntEnum

import torch

from cdgen.engine.paired import Draw, log_probs
from cdgen.engine.sequences import Limits
from cdgen.kernels.sampling_params import RowStatus, SampleOutput


class Event(IntEnum):
    """What a step did to a slot."""

    NOTHING = 0  # it is empty, or the prompt is not used up
    DRAWN = 1
    EOS = 2  # drawn, and the last
    LENGTH = 3  # likewise
    QUARANTINED = 4  # could not be drawn


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
