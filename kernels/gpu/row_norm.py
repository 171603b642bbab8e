"""Parts of the two norm kernels: one program per row, which it keeps in registers."""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.precision import rounded

# Compiled for compute capability 8.0, 9.0 and 10.0: 16-byte loads and stores, no spills. Not timed
# on a GPU yet.
_NUMBERS_PER_THREAD, _MOST_WARPS = 16, 16


def warps_of_row(block: int) -> int:
    """Return how many warps take a row of `block` numbers."""
    return max(1, min(_MOST_WARPS, block // _NUMBERS_PER_THREAD // 32))


@triton.jit
def load_residual(x, delta, column, inside, ADDS: tl.constexpr):
    """Load a row of x; if ADDS, add delta, round the sum to x's dtype and store it as the new x."""
    value = tl.load(x + column, mask=inside, other=0.0)
    if ADDS:
        added = tl.load(delta + column, mask=inside, other=0.0)
        value = rounded(value.to(tl.float32) + added.to(tl.float32), value.dtype)
        tl.store(x + column, value, mask=inside)
    return value
