"""Triton kernel of the layer norm: fp32 inside, rounded where the reference rounds."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cdgen.kernels.gpu.precision import rounded
from cdgen.kernels.gpu.row_norm import load_residual, warps_of_row


@triton.jit(do_not_specialize=["rows_per_model"])
def _layer_norm(
    x,  # [R, D]; becomes x + delta
    delta,  # [R, D]
    weight,  # [M, D]
    bias,  # [M, D]
    out,  # [R, D]
    eps,
    rows_per_model,
    HIDDEN_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
):
    # x += delta;  out = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN_SIZE
    start = row.to(tl.int64) * HIDDEN_SIZE
    value = load_residual(x + start, delta + start, column, inside, ADDS)
    wide = value.to(tl.float32)
    centred = tl.where(inside, wide - tl.sum(wide, axis=0) / HIDDEN_SIZE, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / HIDDEN_SIZE + eps)
    cell = (row // rows_per_model) * HIDDEN_SIZE + column
    gain = tl.load(weight + cell, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + cell, mask=inside, other=0.0).to(tl.float32)
    result = rounded(normed * gain + shift, value.dtype)
    tl.store(out + start + column, result, mask=inside)


@torch.library.custom_op("cdgen::layer_norm", mutates_args=("x",))
def layer_norm(
    x: torch.Tensor,  # [R, D], contiguous as all tensors here
    delta: torch.Tensor | None,  # [R, D]
    weight: torch.Tensor,  # [M, D]: row r takes weight[r // (R / M)]
    bias: torch.Tensor,  # [M, D], taken as weight is
    eps: float,
) -> torch.Tensor:  # [R, D]
    rows, hidden_size = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(hidden_size)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _layer_norm[(rows,)](
            x,
            x if delta is None else delta,
            weight,
            bias,
            out,
            eps,
            rows // len(weight),
            HIDDEN_SIZE=hidden_size,
            BLOCK=block,
            ADDS=delta is not None,
            num_warps=warps_of_row(block),
        )
    return out


@layer_norm.register_fake
def _(x, delta, weight, bias, eps):
    return torch.empty_like(x)


def layer_norm_bytes(x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor) -> int:
    """Return the bytes that the op moves: (2 or 4) R D + 2 M D numbers. It reads x, weight and bias
    and writes the result; with delta, it also reads that and writes x back."""
    return (2 if delta is None else 4) * x.nbytes + 2 * weight.nbytes
