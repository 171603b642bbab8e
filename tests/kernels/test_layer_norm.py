"""The layer norm on the CPU, against fp64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from layer_cases import WIDTHS, assert_near, assert_rounds_alike, normal

from cdgen.kernels.layer_norm import layer_norm

# atol, rtol for numbers near 1: the mean is off by some 1e-7 and shifts each of them; then come one
# square root, three roundings, and a sum with the bias that may cancel.
TOLERANCE = (1e-6, 2e-6)


def norm64(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return centred / scale * weight.double() + bias.double()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_delta", [False, True], ids=["", "delta"])
def test_layer_norm(instruction_set: str, width: int, with_delta: bool, backend: str) -> None:
    x, weight, bias = normal(5, width), normal(width, seed=1), normal(width, seed=2)
    delta = normal(5, width, seed=3) if with_delta else None
    residual = x.clone() if delta is None else x + delta
    out = layer_norm(x, delta, weight, bias, 1e-5, backend=backend)
    assert torch.equal(x, residual)  # one rounding, so exact
    assert_near(out, norm64(residual, weight, bias, 1e-5), TOLERANCE)


@pytest.mark.parametrize("width", WIDTHS)
def test_bf16_weights_on_an_fp32_stream(instruction_set: str, width: int) -> None:
    x = normal(5, width)
    delta, weight, bias = (
        normal(*shape, seed=1).bfloat16() for shape in ((5, width), (width,), (width,))
    )
    out, expected = (
        layer_norm(x.clone(), delta, weight, bias, 1e-5, backend=backend)
        for backend in ("cpu", "reference")
    )
    assert_rounds_alike(out, expected, TOLERANCE)


@pytest.mark.parametrize("width", [40, 43])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_small_and_large_rows(instruction_set: str, width: int, scale: float) -> None:
    x, weight, bias = scale * normal(3, width), torch.ones(width), torch.zeros(width)
    out = layer_norm(x, None, weight, bias, 1e-5)
    assert_near(out, norm64(x, weight, bias, 1e-5), TOLERANCE)


@pytest.mark.parametrize("width", [40, 43])
def test_a_large_mean_does_not_cancel_the_variance(instruction_set: str, width: int) -> None:
    """Sums and differences of whole numbers around 4096 are exact; their squares would not be."""
    x = 4096 + torch.arange(3 * width).view(3, width) % 7 - 3.0
    weight, bias = torch.ones(width), torch.zeros(width)
    out = layer_norm(x, None, weight, bias, 1e-5)
    # The mean is rounded to a step of fp32 at 4096, 5e-4; half a step may shift every number.
    torch.testing.assert_close(out.double(), norm64(x, weight, bias, 1e-5), atol=2e-4, rtol=1e-6)


def test_a_constant_row_is_the_bias(instruction_set: str) -> None:
    bias = normal(20)
    out = layer_norm(torch.full((2, 20), 3.0), None, torch.ones(20), bias, 1e-5)
    assert torch.equal(out, bias.expand(2, 20))


def test_stacked_models_equal_each_alone(instruction_set: str) -> None:
    x, delta = normal(6, 20), normal(6, 20, seed=1)
    weight, bias = normal(2, 20, seed=2), normal(2, 20, seed=3)
    residual = x + delta
    halves = [
        layer_norm(x[rows].clone(), delta[rows], weight[model], bias[model], 1e-5)
        for model, rows in enumerate((slice(3), slice(3, 6)))
    ]
    assert torch.equal(layer_norm(x, delta, weight, bias, 1e-5), torch.cat(halves))
    assert torch.equal(x, residual)


@pytest.mark.parametrize("column", [0, 7, 8, 19])
def test_nan_reaches_the_output_of_its_row_alone(instruction_set: str, column: int) -> None:
    x = normal(3, 20)
    x[1, column] = math.nan
    nan = layer_norm(x, None, torch.ones(20), torch.zeros(20), 1e-5).isnan()
    assert nan.all(-1).tolist() == nan.any(-1).tolist() == [False, True, False]


def test_order_batch_and_threads_change_no_bit(
    instruction_set: str,
    one_and_two_threads: Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    rows, width = 600, 261
    x, delta, weight, bias = (normal(rows, width, seed=seed) for seed in range(4))

    def some_rows(some: list[int]) -> torch.Tensor:
        return layer_norm(x[some], delta[some], weight[0].clone(), bias[0].clone(), 1e-5)

    one, two = one_and_two_threads(lambda: some_rows(list(range(rows))))
    assert torch.equal(one, two)
    for some in ([599, 0, 3], [4]):
        assert torch.equal(some_rows(some), one[some])


@pytest.mark.parametrize(
    "call",
    [
        lambda: layer_norm(normal(2, 6), normal(2, 5), torch.ones(6), torch.ones(6), 1e-5),
        lambda: layer_norm(normal(2, 6), None, torch.ones(5), torch.ones(5), 1e-5),
        lambda: layer_norm(normal(2, 6), None, torch.ones(6), torch.ones(5), 1e-5),
        lambda: layer_norm(normal(2, 6), None, torch.ones(2, 6), torch.ones(6), 1e-5),
        lambda: layer_norm(normal(2, 12)[:, ::2], None, torch.ones(6), torch.ones(6), 1e-5),
        lambda: layer_norm(normal(2, 6), normal(6, 2).T, torch.ones(6), torch.ones(6), 1e-5),
        lambda: layer_norm(normal(2, 6).half(), None, torch.ones(6), torch.ones(6), 1e-5),
        lambda: layer_norm(normal(2, 6), None, torch.ones(6).half(), torch.ones(6), 1e-5),
        lambda: layer_norm(normal(2, 6), None, torch.ones(3, 6), torch.ones(3, 6), 1e-5),
    ],
    ids=[
        "delta",
        "weight",
        "bias",
        "bias of one model",
        "strides",
        "strides of delta",
        "half",
        "weight dtype",
        "3 models of 2 rows",
    ],
)
def test_arguments_are_checked(call: Callable[[], torch.Tensor], no_kernel_runs: None) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
