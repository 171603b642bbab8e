"""Triton kernel of the Gaussian error linear unit, fp32 inside and rounded once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cdgen.kernels.gpu.precision import rounded

# Compiled for compute capability 8.0, 9.0 and 10.0: 16-byte loads and stores, no spills. Not timed
# on a GPU yet.
_BLOCK, _NUMBERS_PER_THREAD = 1024, 8


@triton.jit
def _gelu(
    x,  # [count]
    out,  # [count]
    count,
    TANH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # tanh: (1 + tanh(u)) / 2 is 1 / (1 + exp(-2 u)), with u = sqrt(2 / pi) (x + 0.044715 x^3)
    # erf:  x (1 + erf(x / sqrt(2))) / 2
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = position < count
    wide = tl.load(x + position, mask=inside, other=0.0).to(tl.float32)
    if TANH:
        twice = 1.5957691216057308 * wide * (1.0 + 0.044715 * wide * wide)
        result = wide / (1.0 + tl.exp(-twice))
    else:
        result = 0.5 * wide * (1.0 + tl.erf(wide * 0.7071067811865476))
    tl.store(out + position, rounded(result, out.dtype.element_ty), mask=inside)


@torch.library.custom_op("cdgen::gelu", mutates_args=())
def gelu(
    x: torch.Tensor,  # [R, F], contiguous
    tanh: bool,
) -> torch.Tensor:  # [R, F]
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _gelu[(triton.cdiv(x.numel(), _BLOCK),)](
            x,
            out,
            x.numel(),
            TANH=tanh,
            BLOCK=_BLOCK,
            num_warps=_BLOCK // _NUMBERS_PER_THREAD // 32,
        )
    return out


@gelu.register_fake
def _(x, tanh):
    return torch.empty_like(x)


def gelu_bytes(x: torch.Tensor) -> int:
    """Return the bytes that the op moves: 2 R F numbers. It reads x and writes as much."""
    return 2 * x.nbytes
