"""Triton kernel of a step's bookkeeping: some thirty small tensor operations in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cdgen.kernels.sampling_params import RowStatus
from cdgen.kernels.slot_event import SlotEvent

# Compiled for compute capability 8.0, 9.0 and 10.0. Not timed on a GPU yet; the launch decides.
_SLOTS_PER_PROGRAM = 128

_OK = tl.constexpr(int(RowStatus.OK))
_NOTHING, _DRAWN = tl.constexpr(int(SlotEvent.NOTHING)), tl.constexpr(int(SlotEvent.DRAWN))
_EOS, _LENGTH = tl.constexpr(int(SlotEvent.EOS)), tl.constexpr(int(SlotEvent.LENGTH))
_QUARANTINED = tl.constexpr(int(SlotEvent.QUARANTINED))


@triton.jit
def _advance_slots(
    tokens,  # [B] int64, written
    positions,  # [B] int64, written
    alive,  # [B] bool, written
    prompt_tokens,  # [B] int64
    prompts,  # [B, P] int64
    drawn,  # [B] int64
    status,  # [B] uint8
    plausible,  # [B] int32
    stops,  # [K] int64
    record,  # [3, B] int32, written
    slots,
    prompt_capacity,
    stop_count,
    max_new_tokens,
    BLOCK: tl.constexpr,
):
    # follows = position + 1; the slot draws if it is alive and follows >= its prompt's length
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = slot < slots
    following = tl.load(positions + slot, mask=inside, other=0) + 1
    lives = tl.load(alive + slot, mask=inside, other=False).to(tl.int1)
    length = tl.load(prompt_tokens + slot, mask=inside, other=0)
    token = tl.load(drawn + slot, mask=inside, other=0)
    draws = lives & (following >= length)
    event = tl.where(following - length + 1 >= max_new_tokens, _LENGTH, _DRAWN)
    for i in range(0, stop_count):
        event = tl.where(token == tl.load(stops + i), _EOS, event)
    failed = tl.load(status + slot, mask=inside, other=_OK) != _OK
    event = tl.where(draws, tl.where(failed, _QUARANTINED, event), _NOTHING)
    tl.store(record + slot, event, mask=inside)
    tl.store(record + slots + slot, token.to(tl.int32), mask=inside)
    size = tl.load(plausible + slot, mask=inside, other=0)
    tl.store(record + 2 * slots + slot, size, mask=inside)
    lives = lives & (event <= _DRAWN)
    cell = prompts + slot.to(tl.int64) * prompt_capacity + following
    from_prompt = tl.load(cell, mask=lives & ~draws, other=0)
    token = tl.where(draws, token, from_prompt)
    tl.store(tokens + slot, tl.where(lives, token, 0), mask=inside)
    tl.store(positions + slot, tl.where(lives, following, 0), mask=inside)
    tl.store(alive + slot, lives, mask=inside)


@torch.library.custom_op(
    "cdgen::advance_slots", mutates_args=("tokens", "positions", "alive", "record")
)
def advance_slots(
    tokens: torch.Tensor,
    positions: torch.Tensor,
    alive: torch.Tensor,
    prompt_tokens: torch.Tensor,
    prompts: torch.Tensor,
    drawn: torch.Tensor,
    status: torch.Tensor,
    plausible: torch.Tensor,
    stops: torch.Tensor,
    max_new_tokens: int,
    record: torch.Tensor,
) -> None:
    slots, prompt_capacity = prompts.shape
    with torch.cuda.device_of(tokens):  # Triton launches on the current device
        _advance_slots[(triton.cdiv(slots, _SLOTS_PER_PROGRAM),)](
            tokens,
            positions,
            alive,
            prompt_tokens,
            prompts,
            drawn,
            status,
            plausible,
            stops,
            record,
            slots,
            prompt_capacity,
            len(stops),
            max_new_tokens,
            BLOCK=_SLOTS_PER_PROGRAM,
            num_warps=_SLOTS_PER_PROGRAM // 32,
        )


@advance_slots.register_fake
def _(*_args):
    return None
