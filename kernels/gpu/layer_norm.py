"""Triton kernel of the layer norm: one program per row, which it keeps in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cdgen.kernels.gpu.precision import rounded

# As many numbers per thread as in the RMS norm (kernels/gpu/decoder_ops.py), for the same reasons:
# 16-byte loads and no spills. Not timed on a GPU yet.
_NUMBERS_PER_THREAD, _MOST_WARPS = 16, 16


@triton.jit(do_not_specialize=["rows_per_model"])
def _layer_norm(
    x,  # [R, D]; becomes x + delta
    delta,  # [R, D]
    weight,  # [M, D]
    bias,  # [M, D]
    out,  # [R, D]
    eps,
    rows_per_model,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
):
    # x += delta;  out = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    start = row.to(tl.int64) * WIDTH
    value = tl.load(x + start + column, mask=inside, other=0.0)
    if ADDS:
        added = tl.load(delta + start + column, mask=inside, other=0.0)
        value = rounded(value.to(tl.float32) + added.to(tl.float32), value.dtype)
        tl.store(x + start + column, value, mask=inside)
    wide = value.to(tl.float32)
    apart = tl.where(inside, wide - tl.sum(wide, axis=0) / WIDTH, 0.0)
    normed = apart * tl.rsqrt(tl.sum(apart * apart, axis=0) / WIDTH + eps)
    own = (row // rows_per_model) * WIDTH + column
    gain = tl.load(weight + own, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + own, mask=inside, other=0.0).to(tl.float32)
    result = rounded(normed * gain + shift, value.dtype)
    tl.store(out + start + column, result, mask=inside)


@torch.library.custom_op("cdgen::layer_norm", mutates_args=("x",))
def layer_norm(
    x: torch.Tensor,  # [R, D], contiguous as all tensors here
    delta: torch.Tensor | None,  # [R, D]
    weight: torch.Tensor,  # [M, D]: row r takes weight[r // (R / M)]
    bias: torch.Tensor,  # [M, D], likewise
    eps: float,
) -> torch.Tensor:  # [R, D]
    rows, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _layer_norm[(rows,)](
            x, x if delta is None else delta, weight, bias, out, eps, rows // len(weight),
            WIDTH=width, BLOCK=block, ADDS=delta is not None,
            num_warps=max(1, min(_MOST_WARPS, block // _NUMBERS_PER_THREAD // 32)),
        )  # fmt: skip
    return out


@layer_norm.register_fake
def _(x, delta, weight, bias, eps):
    return torch.empty_like(x)


def layer_norm_bytes(x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor) -> int:
    """x, weight and bias read and the result written; with delta, that is read and x written back:
    (2 or 4) R D + 2 M D numbers."""
    return (2 if delta is None else 4) * x.nbytes + 2 * weight.nbytes
