"""Triton kernel of the RMS norm: fp32 inside, rounded where the reference rounds."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cdgen.kernels.gpu.precision import rounded
from cdgen.kernels.gpu.row_norm import load_residual, warps_of_row


@triton.jit(do_not_specialize=["rows_per_model"])
def _rms_norm(
    x,  # [R, D]; becomes x + delta
    delta,  # [R, D]
    weight,  # [M, D]
    out,  # [R, D]
    eps,
    rows_per_model,
    HIDDEN_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
):
    # x += delta;  out = x / sqrt(mean(x^2) + eps) * weight
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN_SIZE
    start = row.to(tl.int64) * HIDDEN_SIZE
    value = load_residual(x + start, delta + start, column, inside, ADDS)
    wide = value.to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, axis=0) / HIDDEN_SIZE + eps)
    gain = tl.load(weight + (row // rows_per_model) * HIDDEN_SIZE + column, mask=inside, other=0.0)
    product = rounded(normed, value.dtype).to(tl.float32) * gain.to(tl.float32)
    tl.store(out + start + column, rounded(product, value.dtype), mask=inside)


@torch.library.custom_op("cdgen::rms_norm", mutates_args=("x",))
def rms_norm(
    x: torch.Tensor,  # [R, D], contiguous as all tensors here
    delta: torch.Tensor | None,  # [R, D]
    weight: torch.Tensor,  # [M, D]: row r takes weight[r // (R / M)]
    eps: float,
) -> torch.Tensor:  # [R, D]
    rows, hidden_size = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(hidden_size)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _rms_norm[(rows,)](
            x,
            x if delta is None else delta,
            weight,
            out,
            eps,
            rows // len(weight),
            HIDDEN_SIZE=hidden_size,
            BLOCK=block,
            ADDS=delta is not None,
            num_warps=warps_of_row(block),
        )
    return out


@rms_norm.register_fake
def _(x, delta, weight, eps):
    return torch.empty_like(x)


def rms_norm_bytes(x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor) -> int:
    """Return the bytes that the op moves: (2 or 4) R D + M D numbers. It reads x and weight and
    writes the result; with delta, it also reads that and writes x back."""
    return (2 if delta is None else 4) * x.nbytes + weight.nbytes
