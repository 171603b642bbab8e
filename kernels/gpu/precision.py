"""Conversions between number formats and matrix products, corrected where Triton's interpreter
computes differently from a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cdgen.kernels.dispatch import interpreting

# Read when this module is imported, as `triton.jit` does.
INTERPRETED = tl.constexpr(interpreting())

_LEAST_FP8_CAPABILITY = 89


def require_fp8(name: str, x: torch.Tensor) -> None:
    """Raise ValueError on an fp8 tensor if the current GPU cannot convert e4m3."""
    if x.dtype is not torch.float8_e4m3fn or interpreting():
        return
    capability = triton.runtime.driver.active.get_current_target().arch
    if capability < _LEAST_FP8_CAPABILITY:
        raise ValueError(
            f"{name}: expected 2 or 4 bytes per number on compute capability"
            f" {capability // 10}.{capability % 10}, got {x.dtype}, which needs 8.9"
        )


@triton.jit
def _fp8_bits(x):
    """Return the e4m3 bits of fp32 `x` by integer arithmetic. The interpreter rounds without carry
    into the exponent, turns large numbers into NaN, and NaN and infinities into numbers (3.6,
    3.7)."""
    sign = (x.to(tl.uint32, bitcast=True) >> 24) & 0x80
    size = tl.minimum(tl.abs(x), 448.0)
    bits = size.to(tl.uint32, bitcast=True)
    # What is added carries into the upper bits as in `rounded`; the exponent's bias goes from 127
    # to 7. Below 2^-6 numbers are multiples of 2^-9, the last bit of fp32 from 2^14 on.
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    fixed = (size + 16384.0).to(tl.uint32, bitcast=True) & 0x7FFFFF
    code = tl.where(size < 0.015625, fixed, normal)
    return (tl.where(x == x, code, 0x7F) | sign).to(tl.uint8)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """Round fp32 `x` to `dtype`, to nearest even. fp8 saturates at 448, infinities included."""
    if INTERPRETED and dtype == tl.bfloat16:
        # Triton's interpreter cuts the low bits off (3.6, 3.7). What is added carries into the high
        # half exactly where the cut part is more than half a step, or half of it and the step odd.
        bits = x.to(tl.uint32, bitcast=True)
        carried = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40
        return tl.where(x == x, carried, quiet).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    if INTERPRETED and dtype == tl.float8e4nv:
        return _fp8_bits(x).to(tl.float8e4nv, bitcast=True)
    return x.to(dtype)


@triton.jit
def widened(x, dtype: tl.constexpr):
    """Convert `x`, from a cache, to `dtype`, which holds all its numbers exactly."""
    if INTERPRETED and x.dtype == tl.float8e4nv:
        # Triton's interpreter reads NaN as 480 (3.6, 3.7).
        is_nan = (x.to(tl.uint8, bitcast=True) & 0x7F) == 0x7F
        return tl.where(is_nan, float("nan"), x.to(tl.float32)).to(dtype)
    if x.dtype == tl.float8e4nv and dtype == tl.bfloat16:
        # Through fp32: e4m3 is unpacked to fp16, and from there to bf16 the compiler takes one
        # F2F per number, on the unit of special functions; from fp32 it packs two in one F2FP.
        x = x.to(tl.float32)
    return x.to(dtype)


@triton.jit
def dot(a, b, acc):
    """Return acc + a @ b in fp32; products of fp32 numbers are not cut to tf32."""
    if INTERPRETED:
        # Triton's interpreter multiplies the bit patterns of bf16 as integers (3.6, 3.7).
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")
