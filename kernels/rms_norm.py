"""RMS normalisation of the residual stream (Llama)."""

from __future__ import annotations

import torch

from cdgen.kernels import reference
from cdgen.kernels.arguments import (
    addresses,
    check_residual,
    check_tensor,
    check_weight,
    dtype_name,
    per_row,
)
from cdgen.kernels.dispatch import choose_backend, native, threads
from cdgen.kernels.recording import empty


def rms_norm(
    x: torch.Tensor,  # [R, D], contiguous; becomes x + delta
    delta: torch.Tensor | None,  # [R, D]: what the previous block adds to the residual stream
    weight: torch.Tensor,  # [D], or [M, D]: row r takes weight[r // (R / M)]
    eps: float,
    backend: str | None = None,
) -> torch.Tensor:  # [R, D], in the weight's dtype
    """Add delta to x in place and return the RMS norm of the sum (Zhang and Sennrich 2019).

    Rounds to x's dtype after the sum and the normalisation, to the weight's at the end; delta has
    the weight's dtype. kernels/arguments.py lists dtypes and stacked models. Raises ValueError on
    tensors that do not fit.
    """
    rows, hidden_size = x.shape
    chosen = choose_backend(x.device, backend)
    check_residual(x, weight, chosen)
    models = check_weight("weight", weight, rows, hidden_size, weight.dtype)
    if delta is not None:
        check_tensor("delta", delta, (rows, hidden_size), weight.dtype)
    if chosen == "triton":
        from cdgen.kernels.gpu import rms_norm as gpu

        return gpu.rms_norm(x, delta, weight.view(models, hidden_size), eps)
    if chosen == "reference":
        if delta is not None:
            x += delta
        return reference.rms_norm(x, per_row(weight, rows), eps)
    out = empty(rows, hidden_size, dtype=weight.dtype)
    pointers, dtype = addresses(x, delta, weight, out), dtype_name(weight.dtype)
    native.rms_norm(*pointers, dtype, rows, models, hidden_size, eps, threads())
    return out
