"""The gated activation in Triton: rounded as the reference rounds."""

from __future__ import annotations

import pytest
import torch
from layer_cases import DTYPES, GPU_WIDTHS, assert_rounds_alike, normal_on

from cdgen.kernels.swiglu import swiglu

TOLERANCE = (1e-7, 2e-6)  # of fp32 arithmetic, derived in tests/kernels/test_swiglu.py


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", (*GPU_WIDTHS, 1500))
def test_swiglu(device: str, width: int, dtype: torch.dtype) -> None:
    gate_up = 3 * normal_on(device, dtype, 3, 2 * width)
    out = swiglu(gate_up, backend="triton")
    assert_rounds_alike(out, swiglu(gate_up, backend="reference"), TOLERANCE)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
def test_swiglu_of_extreme_gates(device: str) -> None:
    gates = [-100.0, -88.0, -87.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 87.0, 100.0, 3e38]
    gate = torch.tensor([gates], device=device)
    out = swiglu(torch.cat([gate, torch.ones_like(gate)], dim=1), backend="triton")
    expected = gate.double() * torch.special.expit(gate.double())
    torch.testing.assert_close(out.double(), expected, atol=1e-7, rtol=2e-6)


def test_against_the_native_kernel(device: str) -> None:
    pytest.importorskip("cdgen.kernels._cpu")
    x = normal_on("cpu", torch.float32, 3, 200)
    assert_rounds_alike(swiglu(x.to(device), "triton").cpu(), swiglu(x, "cpu"), TOLERANCE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_order_and_batch_change_no_bit(device: str, dtype: torch.dtype) -> None:
    gate_up = normal_on(device, dtype, 3, 260, seed=1)
    everything = swiglu(gate_up, backend="triton")
    for some in ([2, 0, 1], [1], [1, 1]):
        assert torch.equal(swiglu(gate_up[some], backend="triton"), everything[some])


def test_the_registered_op_is_what_it_declares(device: str) -> None:
    from cdgen.kernels.gpu import swiglu as gpu

    torch.library.opcheck(gpu.swiglu, (normal_on(device, torch.bfloat16, 3, 64),))


def test_bytes_follow_their_formula(device: str) -> None:
    from cdgen.kernels.gpu.swiglu import swiglu_bytes

    assert swiglu_bytes(normal_on(device, torch.bfloat16, 3, 64)) == 2 * (3 * 3 * 32)


def test_arguments_are_checked(device: str) -> None:
    x = normal_on(device, torch.bfloat16, 3, 8)
    with pytest.raises(ValueError, match=r"gate_up: expected torch.float32 or .*float64"):
        swiglu(x.double(), "triton")
    with pytest.raises(ValueError, match=r"gate_up: expected .*bfloat16, got torch.float16"):
        swiglu(x.half().cpu(), "cpu")
