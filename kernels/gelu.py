"""The Gaussian error linear unit between the two matrix products of an MLP (GPT-2, GPT-NeoX)."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from cdgen.kernels import reference
from cdgen.kernels.arguments import addresses, check_dtype, check_tensor, dtype_name
from cdgen.kernels.dispatch import choose_backend, native, threads
from cdgen.kernels.recording import empty

# `erf`: x times the normal distribution function; `tanh`: GPT-2's approximation of it.
GeluKind = Literal["tanh", "erf"]


def gelu(
    x: torch.Tensor,  # [R, F], contiguous
    kind: GeluKind,
    backend: str | None = None,
) -> torch.Tensor:  # [R, F], like x
    """Return x Phi(x) (Hendrycks and Gimpel 2016), rounded once.

    kernels/arguments.py lists the dtypes. Raises ValueError on an unknown kind and on tensors that
    do not fit.
    """
    if kind not in get_args(GeluKind):
        raise ValueError(f"kind: expected one of {get_args(GeluKind)}, got {kind!r}")
    rows, intermediate_size = x.shape
    chosen = choose_backend(x.device, backend)
    check_dtype("x", x, chosen)
    check_tensor("x", x, (rows, intermediate_size), x.dtype)
    if chosen == "triton":
        from cdgen.kernels.gpu import gelu as gpu

        return gpu.gelu(x, kind == "tanh")
    if chosen == "reference":
        return reference.gelu(x, kind)
    out = empty(*x.shape, dtype=x.dtype)
    native.gelu(*addresses(x, out), dtype_name(x.dtype), x.numel(), kind == "tanh", threads())
    return out
