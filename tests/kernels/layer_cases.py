"""Numbers, widths and comparisons for the tests of a decoder layer's ops."""

from __future__ import annotations

import torch

WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 64, 100, 256, 769)
GPU_WIDTHS = (1, 7, 64, 100, 769)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return normal numbers on the CPU in float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normal_on(device: str, dtype: torch.dtype, *shape: int, seed: int = 0) -> torch.Tensor:
    """Return the numbers of `normal` on `device`, rounded to `dtype`."""
    return normal(*shape, seed=seed).to(device, dtype)


def rms_norm64(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the RMS norm in float64."""
    wide = x.double()
    return wide / (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def assert_near(
    out: torch.Tensor,  # float32
    expected: torch.Tensor,  # float64
    tolerance: tuple[float, float],  # atol, rtol
) -> None:
    """Assert that `out` is float32 and within the tolerance."""
    assert out.dtype is torch.float32
    atol, rtol = tolerance
    torch.testing.assert_close(out.double(), expected, atol=atol, rtol=rtol)


def assert_rounds_alike(
    out: torch.Tensor,
    expected: torch.Tensor,
    tolerance: tuple[float, float],  # atol, rtol of fp32 arithmetic
    roundings: int = 1,
) -> None:
    """Assert that both are equal but for the last bits of fp32.

    Those decide a rounding to 16 bits about once in 2^12 numbers. A decision the other way is one
    step, at each of the `roundings` in a row.
    """
    assert out.dtype is expected.dtype
    atol, rtol = tolerance
    if out.dtype is not torch.float32:
        rtol += roundings * torch.finfo(out.dtype).eps
        atol += (roundings - 1) * torch.finfo(out.dtype).eps * float(expected.abs().max())
        assert int((out != expected).sum()) <= max(1, out.numel() // 100)
    torch.testing.assert_close(out, expected, atol=atol, rtol=rtol)
