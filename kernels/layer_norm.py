"""Layer normalisation of the residual stream (GPT-2, GPT-NeoX)."""

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


def layer_norm(
    x: torch.Tensor,  # [R, D], contiguous; becomes x + delta
    delta: torch.Tensor | None,  # [R, D]: what the previous block adds to the residual stream
    weight: torch.Tensor,  # [D], or [M, D]: row r takes weight[r // (R / M)]
    bias: torch.Tensor,  # like weight
    eps: float,
    backend: str | None = None,
) -> torch.Tensor:  # [R, D], in the weight's dtype
    """Add delta to x in place and return the layer norm of the sum (Ba et al. 2016).

    Rounds to x's dtype after the sum, to the weight's at the end; delta has the weight's dtype.
    kernels/arguments.py lists dtypes and stacked models. Raises ValueError on tensors that do not
    fit.
    """
    rows, hidden_size = x.shape
    chosen = choose_backend(x.device, backend)
    check_residual(x, weight, chosen)
    models = check_weight("weight", weight, rows, hidden_size, weight.dtype)
    check_tensor("bias", bias, tuple(weight.shape), weight.dtype)
    if delta is not None:
        check_tensor("delta", delta, (rows, hidden_size), weight.dtype)
    if chosen == "triton":
        from cdgen.kernels.gpu import layer_norm as gpu

        stacked = models, hidden_size
        return gpu.layer_norm(x, delta, weight.view(stacked), bias.view(stacked), eps)
    if chosen == "reference":
        if delta is not None:
            x += delta
        return reference.layer_norm(x, per_row(weight, rows), per_row(bias, rows), eps)
    out = empty(rows, hidden_size, dtype=weight.dtype)
    pointers, dtype = addresses(x, delta, weight, bias, out), dtype_name(weight.dtype)
    native.layer_norm(*pointers, dtype, rows, models, hidden_size, eps, threads())
    return out
