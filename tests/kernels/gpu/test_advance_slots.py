"""The bookkeeping of a step in Triton, number for number as the reference has it."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from slot_cases import batches, step

from cdgen.kernels.advance_slots import SlotState
from cdgen.kernels.sampling_params import SampleOutput


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batch=batches())
def test_as_the_reference(device: str, batch: tuple[SlotState, SampleOutput, torch.Tensor]) -> None:
    assert step(*batch, "triton", device) == step(*batch, "reference")


def test_the_registered_op_is_what_it_declares(device: str) -> None:
    from cdgen.kernels.gpu import advance_slots as gpu

    def long(*numbers: int) -> torch.Tensor:
        return torch.tensor(numbers, device=device)

    arguments = (
        long(1, 2), long(4, 0), torch.tensor([True, True], device=device), long(3, 2),
        long(3, 4, 5, 6, 7, 8).view(2, 3), long(7, 9), long(0, 0).to(torch.uint8),
        long(5, 5).int(), long(9), 4, torch.zeros(3, 2, dtype=torch.int32, device=device),
    )  # fmt: skip
    torch.library.opcheck(gpu.advance_slots, arguments)
