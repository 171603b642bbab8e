"""The RMS norm on the CPU, against fp64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from layer_cases import WIDTHS, assert_near, assert_rounds_alike, normal, rms_norm64

from cdgen.kernels.rms_norm import rms_norm

TOLERANCE = (1e-7, 2e-6)  # one fp32 sum of squares, one square root


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_delta", [False, True], ids=["", "delta"])
def test_rms_norm(instruction_set: str, width: int, with_delta: bool) -> None:
    x, weight = normal(5, width), normal(width, seed=1)
    delta = normal(5, width, seed=2) if with_delta else None
    residual = x.clone() if delta is None else x + delta
    out = rms_norm(x, delta, weight, 1e-5)
    assert torch.equal(x, residual)  # one rounding, so exact
    assert_near(out, rms_norm64(residual, weight, 1e-5), TOLERANCE)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_delta", [False, True], ids=["", "delta"])
def test_bf16_weights_on_an_fp32_stream(instruction_set: str, width: int, with_delta: bool) -> None:
    x, weight = normal(5, width), normal(width, seed=1).bfloat16()
    delta = normal(5, width, seed=2).bfloat16() if with_delta else None
    residual = x.clone() if delta is None else x + delta
    out, expected = (
        rms_norm(x.clone(), delta, weight, 1e-5, backend=backend)
        for backend in ("cpu", "reference")
    )
    assert_rounds_alike(out, expected, TOLERANCE)
    rms_norm(x, delta, weight, 1e-5)
    assert torch.equal(x, residual)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_small_and_large_rows(instruction_set: str, scale: float) -> None:
    x, weight = scale * normal(3, 40), torch.ones(40)
    assert_near(rms_norm(x, None, weight, 1e-6), rms_norm64(x, weight, 1e-6), TOLERANCE)


def test_norm_of_zeros_is_zero(instruction_set: str) -> None:
    out = rms_norm(torch.zeros(2, 20), None, torch.ones(20), 1e-6)
    assert torch.equal(out, torch.zeros(2, 20))


def test_stacked_models_equal_each_alone(instruction_set: str) -> None:
    x, delta, weight = normal(6, 20), normal(6, 20, seed=1), normal(2, 20, seed=2)
    residual = x + delta
    halves = [
        rms_norm(x[rows].clone(), delta[rows], weight[model], 1e-6)
        for model, rows in enumerate((slice(3), slice(3, 6)))
    ]
    assert torch.equal(rms_norm(x, delta, weight, 1e-6), torch.cat(halves))
    assert torch.equal(x, residual)


@pytest.mark.parametrize("column", [0, 7, 8, 19])
def test_nan_reaches_the_output_of_its_row_alone(instruction_set: str, column: int) -> None:
    x = normal(3, 20)
    x[1, column] = math.nan
    nan = rms_norm(x, None, torch.ones(20), 1e-6).isnan()
    assert nan.all(-1).tolist() == nan.any(-1).tolist() == [False, True, False]


def test_order_batch_and_threads_change_no_bit(
    instruction_set: str,
    one_and_two_threads: Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    rows, width = 600, 260
    x, delta = normal(rows, width), normal(rows, width, seed=1)

    def some_rows(some: list[int]) -> torch.Tensor:
        return rms_norm(x[some], delta[some], normal(width), 1e-6)

    one, two = one_and_two_threads(lambda: some_rows(list(range(rows))))
    assert torch.equal(one, two)
    for some in ([599, 0, 3], [4]):
        assert torch.equal(some_rows(some), one[some])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_backend_adds_in_place(instruction_set: str, backend: str) -> None:
    x, delta = normal(2, 6), normal(2, 6, seed=1)
    residual = x + delta
    rms_norm(x, delta, torch.ones(6), 1e-6, backend=backend)
    assert torch.equal(x, residual)


@pytest.mark.parametrize(
    "call",
    [
        lambda: rms_norm(normal(2, 6), normal(2, 5), torch.ones(6), 1e-6),
        lambda: rms_norm(normal(2, 6), None, torch.ones(5), 1e-6),
        lambda: rms_norm(normal(2, 12)[:, ::2], None, torch.ones(6), 1e-6),
        lambda: rms_norm(normal(2, 6).bfloat16(), None, torch.ones(6).bfloat16(), 1e-6),
        lambda: rms_norm(normal(2, 6), normal(2, 6), torch.ones(6).bfloat16(), 1e-6),
        lambda: rms_norm(normal(2, 6).double(), None, torch.ones(6).double(), 1e-6),
        lambda: rms_norm(normal(2, 6), None, torch.ones(3, 6), 1e-6),
        lambda: rms_norm(normal(2, 6), None, torch.ones(0, 6), 1e-6),
    ],
    ids=[
        "delta",
        "weight",
        "strides",
        "bf16 stream",
        "fp32 delta",
        "dtype",
        "3 models of 2 rows",
        "no model",
    ],
)
def test_arguments_are_checked(call: Callable[[], torch.Tensor], no_kernel_runs: None) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
