"""The state of the running batch and one step of it, as tensor operations of fixed shape.

A slot holds a sequence: the token to feed next, its position, the prompt, and whether it is alive.
A step feeds every slot to GOOD and BAD, draws, and decides what the slot feeds next: the prompt's
next token, the drawn one, or nothing. No value travels to the host, so on a GPU one step, or
several, are one CUDA graph. A slot that is not alive repeats token 0 at position 0, and its draws
are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cdgen.engine.buffers import to_device
from cdgen.engine.paired import PairedModels, log_probs
from cdgen.engine.sequences import Request
from cdgen.kernels.advance_slots import SlotState, advance_slots


class Slots:
    """B slots on the decoders' device."""

    def __init__(self, models: PairedModels, prompt_capacity: int) -> None:
        self.models, self.settings = models, models.settings
        slots, device = models.good.slots, models.good.device
        # One tensor, so that one copy admits a sequence. Its rows, [B] each: the token to feed
        # next, its position, the sequence id, the length of the prompt.
        self.state = torch.zeros(4, slots, dtype=torch.int64, device=device)
        self.tokens, self.positions, self.sequence_ids, self.prompt_tokens = self.state.unbind()
        self.prompts = torch.zeros(slots, prompt_capacity, dtype=torch.int64, device=device)
        self.alive = torch.zeros(slots, dtype=torch.bool, device=device)  # [B]
        self.stops = torch.tensor(self.settings.limits.stops, dtype=torch.int64, device=device)
        self._slot_state = SlotState(
            self.tokens, self.positions, self.alive, self.prompt_tokens, self.prompts
        )

    def admit(
        self,
        rows: Sequence[int],  # N slots
        requests: Sequence[Request],  # N
        prefilled: bool,
    ) -> None:
        """Put requests into slots. If their prompts are `prefilled`, all tokens but the last are in
        the caches, and the last one is fed next; else feeding starts at the first."""
        prompts = padded_prompts(requests, self.prompts.shape[1])
        lengths = torch.tensor([len(request.prompt) for request in requests])
        ids = torch.tensor([request.sequence_id for request in requests])
        positions = lengths - 1 if prefilled else torch.zeros_like(lengths)
        tokens = prompts.gather(1, positions[:, None])[:, 0]
        device = self.alive.device
        target = to_device(torch.tensor(rows), device)
        self.state[:, target] = to_device(torch.stack([tokens, positions, ids, lengths]), device)
        self.prompts[target] = to_device(prompts, device)
        self.alive.index_fill_(0, target, True)  # assigning a Python bool would wait for the GPU

    def clear(self) -> None:
        """Empty every slot."""
        self.alive.zero_()

    def step(
        self,
        record: torch.Tensor,  # [3, B] int32, written: SlotEvent, token, size of the plausible set
        logprob: torch.Tensor,  # [B] float64, written if `logprobs`: GOOD's of the token, nats
    ) -> None:
        """Feed one token per slot, draw, and write what happened."""
        hidden, bad_hidden = self.models.hidden(self.tokens, self.positions, self.sequence_ids)
        logits = self.models.good.logits(hidden)
        out = self.models.sample(logits, bad_hidden, self.sequence_ids, self.positions + 1)
        if self.settings.logprobs:
            logprob.copy_(log_probs(logits, out.tokens, self.settings.vocab_size))
        limits = self.settings.limits
        advance_slots(self._slot_state, out, self.stops, limits.max_new_tokens, record)


def padded_prompts(requests: Sequence[Request], capacity: int) -> torch.Tensor:  # [N, P] int64
    """Return the prompts as rows of `capacity` tokens, filled up with zeros."""
    prompts = torch.zeros(len(requests), capacity, dtype=torch.int64)
    for row, request in zip(prompts, requests, strict=True):
        row[: len(request.prompt)] = torch.tensor(request.prompt)
    return prompts
