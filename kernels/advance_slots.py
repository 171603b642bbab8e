"""What every slot of the running batch does after a draw, in one launch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from cdgen.kernels import reference
from cdgen.kernels.arguments import addresses, check_tensor
from cdgen.kernels.dispatch import choose_backend, native
from cdgen.kernels.sampling_params import SampleOutput


class SlotState(NamedTuple):
    """The tensors that describe B slots, [B] each, contiguous. The first three change in a step."""

    tokens: torch.Tensor  # int64, to feed next
    positions: torch.Tensor  # int64, of that token in its sequence
    alive: torch.Tensor  # bool: the slot holds a sequence
    prompt_tokens: torch.Tensor  # int64, length of the prompt, 1 or more
    prompts: torch.Tensor  # [B, P] int64, each filled up to P tokens with any ids


def advance_slots(
    state: SlotState,  # written
    drawn: SampleOutput,  # for the position after each slot's own
    stops: torch.Tensor,  # [K] int64: tokens that end a sequence, K may be 0
    max_new_tokens: int,
    record: torch.Tensor,  # [3, B] int32, written: SlotEvent, token, size of the plausible set
    backend: str | None = None,
) -> None:
    """Write what the draw means for every slot, and advance it by a token.

    A slot whose prompt is used up takes the drawn token, and dies if the draw failed, if the token
    is one of `stops`, or if it is the last of `max_new_tokens`; another slot takes the next token
    of its prompt. A dead slot feeds token 0 at position 0. Raises ValueError on tensors that do not
    fit.
    """
    slots = len(state.tokens)
    for name, x in zip(SlotState._fields, state, strict=True):
        shape = (slots, state.prompts.shape[1]) if name == "prompts" else (slots,)
        check_tensor(name, x, shape, torch.bool if name == "alive" else torch.int64)
    check_tensor("drawn.tokens", drawn.tokens, (slots,), torch.int64)
    check_tensor("drawn.status", drawn.status, (slots,), torch.uint8)
    check_tensor("drawn.plausible", drawn.plausible, (slots,), torch.int32)
    check_tensor("stops", stops, (len(stops),), torch.int64)
    check_tensor("record", record, (3, slots), torch.int32)
    chosen = choose_backend(state.tokens.device, backend)
    if chosen == "reference":
        reference.advance_slots(*state, drawn, stops, max_new_tokens, record)
        return
    inputs = (*state, drawn.tokens, drawn.status, drawn.plausible, stops)
    if chosen == "triton":
        from cdgen.kernels.gpu import advance_slots as gpu

        gpu.advance_slots(*inputs, max_new_tokens, record)
        return
    sizes = slots, state.prompts.shape[1], len(stops), max_new_tokens
    native.advance_slots(*addresses(*inputs, record), *sizes)
