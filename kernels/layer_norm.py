"""Layer normalisation of the residual stream, in one pass (GPT-2, GPT-NeoX)."""

from __future__ import annotations

import torch

from cdgen.kernels import reference
from cdgen.kernels.decoder_ops import address, check_dtype, check_weight, per_row
from cdgen.kernels.dispatch import check, choose_backend, native, threads


def layer_norm(
    x: torch.Tensor,  # [R, D], contiguous; becomes x + delta
    delta: torch.Tensor | None,  # [R, D]: what the previous block adds to the residual stream
    weight: torch.Tensor,  # [D], or [M, D]: row r takes weight[r // (R / M)]
    bias: torch.Tensor,  # like weight
    eps: float,
    backend: str | None = None,
) -> torch.Tensor:  # [R, D], like x
    """x += delta in place, then its layer norm (Ba et al. 2016).

    Rounds to x's dtype after the sum and at the end. Dtypes and stacked models are those of
    kernels/decoder_ops.py. Raises ValueError on tensors that do not fit.
    """
    rows, width = x.shape
    chosen = choose_backend(x.device, backend)
    check_dtype("x", x, chosen)
    check("x", x, (rows, width), x.dtype)
    models = check_weight("weight", weight, x, width)
    check("bias", bias, tuple(weight.shape), x.dtype)
    if delta is not None:
        check("delta", delta, (rows, width), x.dtype)
    if chosen == "triton":
        from cdgen.kernels.gpu import layer_norm as gpu

        gains = weight.view(models, width), bias.view(models, width)
        return gpu.layer_norm(x, delta, *gains, eps)
    if chosen == "reference":
        if delta is not None:
            x += delta
        return reference.layer_norm(x, per_row(weight, rows), per_row(bias, rows), eps)
    out = torch.empty_like(x)
    share = rows // models
    for model in range(models):
        row = model * share
        native.layer_norm(
            address(x, row), address(delta, row), address(weight, model), address(bias, model),
            address(out, row), share, width, eps, threads(),
        )  # fmt: skip
    return out
