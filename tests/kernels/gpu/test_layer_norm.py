"""The layer norm in Triton: rounded as the reference rounds, one model or two."""

from __future__ import annotations

import math

import pytest
import torch

from cdgen.kernels.layer_norm import layer_norm

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDTHS = (1, 7, 64, 100, 769)
# fp32 arithmetic in another order, derived in tests/kernels/test_layer_norm.py.
ATOL, RTOL = 1e-6, 2e-6


def normal(device: str, dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device, dtype)


def assert_rounds_alike(out: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert equality up to the last bits of fp32, which decide a rounding to 16 bits about once in
    2^10 numbers, by one step."""
    assert out.dtype is expected.dtype
    rtol = RTOL
    if out.dtype is not torch.float32:
        rtol += torch.finfo(out.dtype).eps
        assert int((out != expected).sum()) <= max(1, out.numel() // 100)
    torch.testing.assert_close(out, expected, atol=ATOL, rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_delta", [False, True], ids=["", "delta"])
def test_layer_norm(device: str, width: int, dtype: torch.dtype, with_delta: bool) -> None:
    x, delta = normal(device, dtype, 3, width), normal(device, dtype, 3, width, seed=1)
    weight, bias = (normal(device, dtype, width, seed=seed) for seed in (2, 3))
    twin, added = x.clone(), delta if with_delta else None
    out = layer_norm(x, added, weight, bias, 1e-5, backend="triton")
    expected = layer_norm(twin, added, weight, bias, 1e-5, backend="reference")
    assert torch.equal(x, twin)  # one rounding, so exact
    assert_rounds_alike(out, expected)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_small_and_large_rows(device: str, scale: float) -> None:
    x = scale * normal(device, torch.float32, 3, 40)
    weight, bias = torch.ones(40, device=device), torch.zeros(40, device=device)
    out = layer_norm(x, None, weight, bias, 1e-5, backend="triton")
    assert_rounds_alike(out, layer_norm(x, None, weight, bias, 1e-5, backend="reference"))


def test_against_the_native_kernel(device: str) -> None:
    pytest.importorskip("cdgen.kernels._cpu")
    x, weight, bias = (normal("cpu", torch.float32, 3, 200, seed=seed) for seed in range(3))
    arguments = [x.to(device), None, weight[0].to(device), bias[0].to(device), 1e-5]
    out = layer_norm(*arguments, backend="triton")
    assert_rounds_alike(out.cpu(), layer_norm(x, None, weight[0], bias[0], 1e-5, backend="cpu"))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_layer_norm_of_stacked_models(device: str, backend: str) -> None:
    x, delta = normal(device, torch.float32, 6, 40), normal(device, torch.float32, 6, 40, seed=1)
    weight, bias = (normal(device, torch.float32, 2, 40, seed=seed) for seed in (2, 3))
    halves = [
        layer_norm(x[rows].clone(), delta[rows], weight[i], bias[i], 1e-5, backend=backend)
        for i, rows in enumerate((slice(3), slice(3, 6)))
    ]
    residual = x + delta
    out = layer_norm(x, delta, weight, bias, 1e-5, backend=backend)
    assert torch.equal(out, torch.cat(halves))
    assert torch.equal(x, residual)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_order_and_batch_change_no_bit(device: str, dtype: torch.dtype) -> None:
    x, delta = normal(device, dtype, 3, 260), normal(device, dtype, 3, 260, seed=1)
    weight, bias = (normal(device, dtype, 260, seed=seed) for seed in (2, 3))

    def some_rows(some: list[int]) -> torch.Tensor:
        return layer_norm(x[some], delta[some], weight, bias, 1e-5, backend="triton")

    everything = some_rows([0, 1, 2])
    for some in ([2, 0, 1], [1], [1, 1]):
        assert torch.equal(some_rows(some), everything[some])


def test_nan_stays_in_its_row(device: str) -> None:
    x = normal(device, torch.bfloat16, 3, 20)
    x[1, 7] = math.nan
    weight, bias = (normal(device, torch.bfloat16, 20, seed=seed) for seed in (2, 3))
    nan = layer_norm(x, None, weight, bias, 1e-5, backend="triton").isnan()
    assert nan.all(-1).tolist() == nan.any(-1).tolist() == [False, True, False]


def test_the_registered_op_is_what_it_declares(device: str) -> None:
    from cdgen.kernels.gpu import layer_norm as gpu

    x, delta = (normal(device, torch.bfloat16, 3, 64, seed=seed) for seed in (0, 1))
    weight, bias = (normal(device, torch.bfloat16, 1, 64, seed=seed) for seed in (2, 3))
    torch.library.opcheck(gpu.layer_norm, (x, delta, weight, bias, 1e-5))


def test_bytes_follow_their_formula(device: str) -> None:
    from cdgen.kernels.gpu.layer_norm import layer_norm_bytes

    x, weight = normal(device, torch.bfloat16, 3, 64), normal(device, torch.bfloat16, 2, 64)
    assert layer_norm_bytes(x, None, weight) == 2 * (2 * 3 * 64 + 2 * 2 * 64)
    assert layer_norm_bytes(x, x, weight) == 2 * (4 * 3 * 64 + 2 * 2 * 64)


def test_arguments_are_checked(device: str) -> None:
    x, row = normal(device, torch.bfloat16, 3, 8), normal(device, torch.bfloat16, 8)
    with pytest.raises(ValueError, match=r"weight: expected .*bfloat16"):
        layer_norm(x, None, row.float(), row, 1e-5, backend="triton")
    with pytest.raises(ValueError, match=r"bias: expected .*bfloat16"):
        layer_norm(x, None, row, row.float(), 1e-5, backend="triton")
