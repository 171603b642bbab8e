"""The gated activation on the CPU, against fp64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from layer_cases import WIDTHS, assert_near, assert_rounds_alike, normal

from cdgen.kernels.swiglu import swiglu

TOLERANCE = (1e-7, 2e-6)  # an exp of 2 ulp, a quotient, two products


@pytest.mark.parametrize("width", WIDTHS)
def test_swiglu(instruction_set: str, width: int) -> None:
    gate_up = 3 * normal(5, 2 * width)
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert_near(swiglu(gate_up), gate / (1 + (-gate).exp()) * up, TOLERANCE)


@pytest.mark.parametrize("width", WIDTHS)
def test_bf16(instruction_set: str, width: int) -> None:
    gate_up = 3 * normal(5, 2 * width).bfloat16()
    assert_rounds_alike(swiglu(gate_up), swiglu(gate_up, backend="reference"), TOLERANCE)


@pytest.mark.parametrize("position", range(11))  # vector lanes and the tail of a row
def test_extreme_gates(instruction_set: str, position: int) -> None:
    gates = [-100.0, -88.0, -87.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 87.0, 100.0, 3e38]
    gate = torch.tensor([gates]).roll(position, dims=1)
    out = swiglu(torch.cat([gate, torch.ones_like(gate)], dim=1))
    wide = gate.double()
    assert_near(out, wide * torch.special.expit(wide), TOLERANCE)


@pytest.mark.parametrize("column", [0, 7, 8, 19])
@pytest.mark.parametrize("half", [0, 20], ids=["gate", "up"])
def test_nan_stays_in_its_row_and_column(instruction_set: str, half: int, column: int) -> None:
    gate_up = normal(3, 40)
    gate_up[1, half + column] = math.nan
    expected = torch.zeros(3, 20, dtype=torch.bool)
    expected[1, column] = True
    assert torch.equal(swiglu(gate_up).isnan(), expected)


def test_order_batch_and_threads_change_no_bit(
    instruction_set: str,
    one_and_two_threads: Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    gate_up = normal(600, 520)
    one, two = one_and_two_threads(lambda: swiglu(gate_up))
    assert torch.equal(one, two)
    for some in ([599, 0, 3], [4]):
        assert torch.equal(swiglu(gate_up[some]), one[some])


@pytest.mark.parametrize(
    "call",
    [lambda: swiglu(normal(2, 7)), lambda: swiglu(normal(2, 8).half())],
    ids=["odd", "half"],
)
def test_arguments_are_checked(call: Callable[[], torch.Tensor], no_kernel_runs: None) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
