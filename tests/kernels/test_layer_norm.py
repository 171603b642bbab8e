"""The layer norm on the CPU, against fp64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from cdgen.kernels.layer_norm import layer_norm

WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 64, 100, 256, 769)

# Of numbers near 1: the mean is off by some 1e-7 and shifts every one; then one square root, three
# roundings, and a sum with the bias that may cancel.
ATOL, RTOL = 1e-6, 2e-6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def norm64(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    apart = wide - wide.mean(-1, keepdim=True)
    scale = (apart.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return apart / scale * weight.double() + bias.double()


def assert_near(out: torch.Tensor, expected: torch.Tensor) -> None:
    assert out.dtype is torch.float32
    torch.testing.assert_close(out.double(), expected, atol=ATOL, rtol=RTOL)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_delta", [False, True], ids=["", "delta"])
def test_layer_norm(instruction_set: str, width: int, with_delta: bool, backend: str) -> None:
    x, weight, bias = normal(5, width), normal(width, seed=1), normal(width, seed=2)
    delta = normal(5, width, seed=3) if with_delta else None
    residual = x.clone() if delta is None else x + delta
    out = layer_norm(x, delta, weight, bias, 1e-5, backend=backend)
    assert torch.equal(x, residual)  # one rounding, so exact
    assert_near(out, norm64(residual, weight, bias, 1e-5))


@pytest.mark.parametrize("width", [40, 43])
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_small_and_large_rows(instruction_set: str, width: int, scale: float) -> None:
    x, weight, bias = scale * normal(3, width), torch.ones(width), torch.zeros(width)
    assert_near(layer_norm(x, None, weight, bias, 1e-5), norm64(x, weight, bias, 1e-5))


@pytest.mark.parametrize("width", [40, 43])
def test_a_large_mean_cancels_nothing_else(instruction_set: str, width: int) -> None:
    """Whole numbers around 4096: their sum and differences are exact, their squares are not."""
    x = 4096 + torch.arange(3 * width).view(3, width) % 7 - 3.0
    weight, bias = torch.ones(width), torch.zeros(width)
    out = layer_norm(x, None, weight, bias, 1e-5)
    # The mean itself is rounded to a step of fp32 at 4096, 5e-4, of which half shifts every number.
    torch.testing.assert_close(out.double(), norm64(x, weight, bias, 1e-5), atol=2e-4, rtol=1e-6)


def test_a_constant_row_is_the_bias(instruction_set: str) -> None:
    bias = normal(20)
    out = layer_norm(torch.full((2, 20), 3.0), None, torch.ones(20), bias, 1e-5)
    assert torch.equal(out, bias.expand(2, 20))


def test_stacked_models(instruction_set: str) -> None:
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
        "delta", "weight", "bias", "bias of one model", "strides", "strides of delta", "half",
        "weight dtype", "3 models of 2 rows",
    ],
)  # fmt: skip
def test_arguments_are_checked(call: Callable[[], torch.Tensor], no_kernel_runs: None) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()
