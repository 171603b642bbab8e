"""The bookkeeping of a step on the CPU: by hand, and the native kernel against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from slot_cases import NEW_TOKENS, batches, step

from cdgen.kernels.advance_slots import SlotState, advance_slots
from cdgen.kernels.sampling_params import RowStatus, SampleOutput
from cdgen.kernels.slot_event import SlotEvent

STOP = 9
# Position, alive, drawn token, status -> event, next token, next position; the prompt is 3, 4, 5.
BY_HAND = {
    "the prompt goes on": (0, True, 7, RowStatus.OK, SlotEvent.NOTHING, 4, 1),
    "a stop within the prompt": (1, True, STOP, RowStatus.OK, SlotEvent.NOTHING, 5, 2),
    "a failure within the prompt": (
        1, True, -1, RowStatus.GOOD_NOT_FINITE, SlotEvent.NOTHING, 5, 2,
    ),
    "the first draw": (2, True, 7, RowStatus.OK, SlotEvent.DRAWN, 7, 3),
    "a draw": (4, True, 7, RowStatus.OK, SlotEvent.DRAWN, 7, 5),
    "the last draw": (5, True, 7, RowStatus.OK, SlotEvent.LENGTH, 0, 0),
    "a stop": (2, True, STOP, RowStatus.OK, SlotEvent.EOS, 0, 0),
    "a stop as the last draw": (5, True, STOP, RowStatus.OK, SlotEvent.EOS, 0, 0),
    "a failure": (2, True, -1, RowStatus.BAD_NOT_FINITE, SlotEvent.QUARANTINED, 0, 0),
    "dead": (0, False, 7, RowStatus.OK, SlotEvent.NOTHING, 0, 0),
    "dead, a failure": (0, False, -1, RowStatus.GOOD_NOT_FINITE, SlotEvent.NOTHING, 0, 0),
}  # fmt: skip


def one_slot(position: int, alive: bool, token: int, status: int) -> tuple[SlotState, SampleOutput]:
    state = SlotState(
        torch.tensor([1]),
        torch.tensor([position]),
        torch.tensor([alive]),
        torch.tensor([3]),
        torch.tensor([[3, 4, 5, 0]]),
    )
    size = torch.tensor([6], dtype=torch.int32)
    return state, SampleOutput(
        torch.tensor([token]), torch.tensor([status], dtype=torch.uint8), size, size
    )


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("case", BY_HAND.values(), ids=BY_HAND)
def test_one_slot_by_hand(case: tuple[int, bool, int, int, int, int, int], backend: str) -> None:
    position, alive, token, status, event, next_token, next_position = case
    state, drawn = one_slot(position, alive, token, status)
    assert NEW_TOKENS == 4  # so the draw at position 5 is the fourth after three prompt tokens
    tokens, positions, still_alive, record = step(state, drawn, torch.tensor([8, STOP]), backend)
    assert record == [[event], [token], [6]]
    assert (tokens, positions) == ([next_token], [next_position])
    assert still_alive == [alive and event <= SlotEvent.DRAWN]


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batch=batches())
def test_as_the_reference(
    instruction_set: str, batch: tuple[SlotState, SampleOutput, torch.Tensor]
) -> None:
    assert step(*batch, "cpu") == step(*batch, "reference")


@pytest.mark.parametrize("position", range(3, 7))
def test_a_slot_without_stops_ends_by_length_alone(position: int) -> None:
    state, drawn = one_slot(position, True, STOP, RowStatus.OK)
    no_stops = torch.empty(0, dtype=torch.int64)
    _, _, (alive,), record = step(state, drawn, no_stops, "cpu")
    ends = position >= 5
    assert (alive, record[0]) == (not ends, [SlotEvent.LENGTH if ends else SlotEvent.DRAWN])


@pytest.mark.parametrize(
    "name, wrong",
    {
        "positions": torch.zeros(1, dtype=torch.int32),
        "alive": torch.zeros(1, dtype=torch.uint8),
        "prompt_tokens": torch.zeros(2, dtype=torch.int64),
        "prompts": torch.zeros(2, 4, dtype=torch.int64),
    }.items(),
)
def test_tensors_that_do_not_fit_are_refused(
    name: str, wrong: torch.Tensor, no_kernel_runs: None
) -> None:
    state, drawn = one_slot(0, True, 7, RowStatus.OK)
    record, stops = torch.zeros(3, 1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"^{name}: expected contiguous"):
        advance_slots(state._replace(**{name: wrong}), drawn, stops, 4, record)
    with pytest.raises(ValueError, match=r"^record: expected contiguous \[3, 1\] torch.int32"):
        advance_slots(state, drawn, stops, 4, record.long())
    with pytest.raises(ValueError, match=r"^stops: expected contiguous"):
        advance_slots(state, drawn, stops.int(), 4, record)
