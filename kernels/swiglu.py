"""The gated activation between the two matrix products of an MLP (Llama)."""

from __future__ import annotations

import torch

from cdgen.kernels import reference
from cdgen.kernels.arguments import addresses, check_dtype, check_tensor, dtype_name
from cdgen.kernels.dispatch import choose_backend, native, threads
from cdgen.kernels.recording import empty


def swiglu(
    gate_up: torch.Tensor,  # [R, 2 F], contiguous
    backend: str | None = None,
) -> torch.Tensor:  # [R, F], like gate_up
    """Return silu(gate) * up, the two halves of each row (Shazeer 2020), rounded once.

    kernels/arguments.py lists the dtypes. Raises ValueError on tensors that do not fit.
    """
    rows, intermediate_size = gate_up.shape[0], gate_up.shape[1] // 2
    chosen = choose_backend(gate_up.device, backend)
    check_dtype("gate_up", gate_up, chosen)
    check_tensor("gate_up", gate_up, (rows, 2 * intermediate_size), gate_up.dtype)
    if chosen == "triton":
        from cdgen.kernels.gpu import swiglu as gpu

        return gpu.swiglu(gate_up)
    if chosen == "reference":
        return reference.swiglu(gate_up)
    out = empty(rows, intermediate_size, dtype=gate_up.dtype)
    dtype = dtype_name(gate_up.dtype)
    native.swiglu(*addresses(gate_up, out), dtype, rows, intermediate_size, threads())
    return out
