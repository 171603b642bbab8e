"""Batches of slots in every state, and one step of them on any backend."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from cdgen.kernels.advance_slots import SlotState, advance_slots
from cdgen.kernels.sampling_params import SampleOutput

PROMPT_CAPACITY, NEW_TOKENS, VOCAB = 5, 4, 12


@st.composite
def batches(draw: st.DrawFn) -> tuple[SlotState, SampleOutput, torch.Tensor]:
    """Draw slots at any point of a prompt or of a continuation, alive or dead, with draws that
    failed, ended or went on."""
    count = draw(st.integers(1, 300))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=seed)

    prompt_tokens = integers(1, PROMPT_CAPACITY + 1, count)
    state = SlotState(
        tokens=integers(0, VOCAB, count),
        # The last position that a slot can feed is that before its last token.
        positions=integers(0, 1000, count) % (prompt_tokens + NEW_TOKENS - 1),
        alive=integers(0, 4, count) > 0,
        prompt_tokens=prompt_tokens,
        prompts=integers(0, VOCAB, count, PROMPT_CAPACITY),
    )
    status = integers(0, 12, count).clamp(max=4).remainder(4).to(torch.uint8)
    tokens = integers(0, VOCAB, count).masked_fill(status > 0, -1)
    plausible = integers(1, 9, count).to(torch.int32)
    stops = torch.tensor(draw(st.lists(st.integers(0, VOCAB - 1), max_size=3)), dtype=torch.int64)
    return state, SampleOutput(tokens, status, plausible, plausible), stops


def step(
    state: SlotState, drawn: SampleOutput, stops: torch.Tensor, backend: str, device: str = "cpu"
) -> tuple[list[int], list[int], list[bool], list[list[int]]]:
    """Return tokens, positions, alive and the record after a step of a copy of `state`."""
    copy = SlotState(*(x.clone().to(device) for x in state))
    out = SampleOutput(
        *(x.to(device) for x in (drawn.tokens, drawn.status, drawn.plausible, drawn.kept))
    )
    record = torch.full((3, len(state.tokens)), -7, dtype=torch.int32, device=device)
    advance_slots(copy, out, stops.to(device), NEW_TOKENS, record, backend)
    for name in ("prompt_tokens", "prompts"):
        assert torch.equal(getattr(copy, name).cpu(), getattr(state, name))
    return (
        copy.tokens.tolist(),
        copy.positions.tolist(),
        copy.alive.tolist(),
        record.tolist(),
    )
