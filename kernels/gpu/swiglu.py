"""Triton kernel of the gated activation, fp32 inside and rounded once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cdgen.kernels.gpu.precision import rounded

# Compiled for compute capability 8.0, 9.0 and 10.0: 16-byte loads and stores, no spills. Not timed
# on a GPU yet.
_MOST_PER_PROGRAM, _NUMBERS_PER_THREAD = 1024, 8


@triton.jit
def _swiglu(
    gate_up,  # [R, 2 F]
    out,  # [R, F]
    INTERMEDIATE_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # gate / (1 + exp(-gate)) * up
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < INTERMEDIATE_SIZE
    source = gate_up + row * (2 * INTERMEDIATE_SIZE) + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + INTERMEDIATE_SIZE, mask=inside, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(
        out + row * INTERMEDIATE_SIZE + column, rounded(product, out.dtype.element_ty), mask=inside
    )


@torch.library.custom_op("cdgen::swiglu", mutates_args=())
def swiglu(
    gate_up: torch.Tensor,  # [R, 2 F], contiguous
) -> torch.Tensor:  # [R, F]
    rows, intermediate_size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, intermediate_size, dtype=gate_up.dtype, device=gate_up.device)
    block = min(_MOST_PER_PROGRAM, triton.next_power_of_2(intermediate_size))
    with torch.cuda.device_of(gate_up):  # Triton launches on the current device
        _swiglu[(rows, triton.cdiv(intermediate_size, block))](
            gate_up,
            out,
            INTERMEDIATE_SIZE=intermediate_size,
            BLOCK=block,
            num_warps=max(1, block // _NUMBERS_PER_THREAD // 32),
        )
    return out


@swiglu.register_fake
def _(gate_up):
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


def swiglu_bytes(gate_up: torch.Tensor) -> int:
    """Return the bytes that the op moves: 3 R F numbers. It reads both halves and writes one."""
    return gate_up.nbytes // 2 * 3
