"""The Gaussian error linear unit between the two products of an MLP (GPT-2, GPT-NeoX)."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from cdgen.kernels import reference
from cdgen.kernels.decoder_ops import check_dtype
from cdgen.kernels.dispatch import check, choose_backend, native, threads

# `erf`: x times the normal distribution function; `tanh`: its approximation in GPT-2.
GeluKind = Literal["tanh", "erf"]


def gelu(
    x: torch.Tensor,  # [R, F], contiguous
    kind: GeluKind,
    backend: str | None = None,
) -> torch.Tensor:  # [R, F], like x
    """x Phi(x) (Hendrycks and Gimpel 2016), rounded once. Raises ValueError on tensors that do not
    fit; dtypes are those of kernels/decoder_ops.py."""
    if kind not in get_args(GeluKind):
        raise ValueError(f"kind: expected one of {get_args(GeluKind)}, got {kind!r}")
    rows, width = x.shape
    chosen = choose_backend(x.device, backend)
    check_dtype("x", x, chosen)
    check("x", x, (rows, width), x.dtype)
    if chosen == "triton":
        from cdgen.kernels.gpu import gelu as gpu

        return gpu.gelu(x, kind == "tanh")
    if chosen == "reference":
        return reference.gelu(x, kind)
    out = torch.empty_like(x)
    native.gelu(x.data_ptr(), out.data_ptr(), rows * width, kind == "tanh", threads())
    return out
