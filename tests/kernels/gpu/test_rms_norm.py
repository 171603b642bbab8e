"""The RMS norm in Triton: rounded as the reference rounds, one model or two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layer_cases import DTYPES, GPU_WIDTHS, assert_rounds_alike, normal_on

from cdgen.kernels.rms_norm import rms_norm

TOLERANCE = (1e-7, 2e-6)  # of fp32 arithmetic, derived in tests/kernels/test_rms_norm.py


@pytest.mark.filterwarnings("ignore:.*encountered in multiply:RuntimeWarning")
def test_rounding_to_bf16_is_to_nearest_even(device: str) -> None:
    """Sums round to nearest even, although the interpreter's own conversion truncates."""
    step = 2.0**-7  # of bf16 between 1 and 2
    weights = [1.0, 1 + step, 1 + 2 * step, -1 - step, 255.0]
    x = torch.tensor([[1.0, -1.0, 1.0, 1.0, 1.0]]).expand(2, -1).to(device, torch.bfloat16)
    delta = torch.tensor(
        [
            [step / 2, -step / 2 - step / 8, 1.5 * step, 0.5 * step, float("nan")],
            [float("inf"), float("-inf"), -1.0, 3e38, 2.0**-140],
        ]
    ).to(device, torch.bfloat16)
    weight = torch.tensor(weights).to(device, torch.bfloat16)
    out, total = x.clone(), x.clone()
    total += delta
    rms_norm(out, delta, weight, 1e-6, backend="triton")
    torch.testing.assert_close(out, total, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", GPU_WIDTHS)
@pytest.mark.parametrize("with_delta", [False, True], ids=["", "delta"])
def test_rms_norm(device: str, width: int, dtype: torch.dtype, with_delta: bool) -> None:
    x, weight = normal_on(device, dtype, 3, width), normal_on(device, dtype, width, seed=1)
    delta = normal_on(device, dtype, 3, width, seed=2) if with_delta else None
    twin = x.clone()
    out = rms_norm(x, delta, weight, 1e-5, backend="triton")
    expected = rms_norm(twin, delta, weight, 1e-5, backend="reference")
    assert torch.equal(x, twin)  # one rounding, so exact
    assert_rounds_alike(out, expected, TOLERANCE, roundings=2)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_rms_norm_of_small_and_large_rows(device: str, scale: float) -> None:
    x, weight = scale * normal_on(device, torch.float32, 3, 40), torch.ones(40, device=device)
    out = rms_norm(x, None, weight, 1e-6, backend="triton")
    assert_rounds_alike(out, rms_norm(x, None, weight, 1e-6, backend="reference"), TOLERANCE)


def test_against_the_native_kernel(device: str) -> None:
    pytest.importorskip("cdgen.kernels._cpu")
    x, weight = (normal_on("cpu", torch.float32, *shape) for shape in ((3, 200), (200,)))
    out = rms_norm(x.to(device), None, weight.to(device), 1e-5, "triton")
    assert_rounds_alike(out.cpu(), rms_norm(x, None, weight, 1e-5, "cpu"), TOLERANCE)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_rms_norm_of_stacked_models(device: str, backend: str) -> None:
    x, delta = (
        normal_on(device, torch.float32, 6, 40),
        normal_on(device, torch.float32, 6, 40, seed=1),
    )
    weight = normal_on(device, torch.float32, 2, 40, seed=2)
    halves = [
        rms_norm(x[rows].clone(), delta[rows], weight[model], 1e-6, backend=backend)
        for model, rows in enumerate((slice(3), slice(3, 6)))
    ]
    residual = x + delta
    assert torch.equal(rms_norm(x, delta, weight, 1e-6, backend=backend), torch.cat(halves))
    assert torch.equal(x, residual)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_order_and_batch_change_no_bit(device: str, dtype: torch.dtype) -> None:
    x, delta = normal_on(device, dtype, 3, 260), normal_on(device, dtype, 3, 260, seed=1)
    weight = normal_on(device, dtype, 260, seed=2)

    def some_rows(some: list[int]) -> torch.Tensor:
        return rms_norm(x[some], delta[some], weight, 1e-6, backend="triton")

    everything = some_rows([0, 1, 2])
    for some in ([2, 0, 1], [1], [1, 1]):
        assert torch.equal(some_rows(some), everything[some])


def test_the_registered_op_is_what_it_declares(device: str) -> None:
    from cdgen.kernels.gpu import rms_norm as gpu

    x, weight = (normal_on(device, torch.bfloat16, rows, 64) for rows in (3, 1))
    torch.library.opcheck(gpu.rms_norm, (x, x.clone(), weight, 1e-6))


def test_bytes_follow_their_formula(device: str) -> None:
    from cdgen.kernels.gpu.rms_norm import rms_norm_bytes

    x, weight = (normal_on(device, torch.bfloat16, rows, 64) for rows in (3, 2))
    assert rms_norm_bytes(x, None, weight) == 2 * (2 * 3 * 64 + 2 * 64)
    assert rms_norm_bytes(x, x, weight) == 2 * (4 * 3 * 64 + 2 * 64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: rms_norm(x, None, x[0].float(), 1e-6, "triton"), "weight: expected .*bfloat16"),
        (lambda x: rms_norm(x, None, x[:2], 1e-6, "triton"), "weight: expected .* 3 rows evenly"),
        (lambda x: rms_norm(x, x.half(), x[0], 1e-6, "triton"), "delta: expected .*bfloat16"),
    ],
    ids=["weight dtype", "models", "delta dtype"],
)
def test_arguments_are_checked(
    device: str, call: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(normal_on(device, torch.bfloat16, 3, 8))
