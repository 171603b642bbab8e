"""What Triton's interpreter computes otherwise than a GPU, put right."""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.dispatch import interpreting

# As `triton.jit` does, taken when this module is imported.
INTERPRETED = tl.constexpr(interpreting())


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """fp32 `x` in `dtype`, to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16:
        # Triton's interpreter cuts the low bits off (3.6, 3.7). What is added carries into the high
        # half exactly where the cut part is more than half a step, or half of it and the step odd.
        bits = x.to(tl.uint32, bitcast=True)
        carried = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40
        return tl.where(x == x, carried, quiet).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(dtype)


@triton.jit
def dot(a, b, acc):
    """acc + a @ b in fp32; products of fp32 numbers are not cut to tf32."""
    if INTERPRETED:
        # Triton's interpreter multiplies the bit patterns of bf16 as integers (3.6, 3.7).
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")
