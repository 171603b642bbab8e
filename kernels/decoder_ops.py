"""The ops between the matrix products of a decoder layer, each one pass over its input."""

from __future__ import annotations

import torch

from cdgen.kernels import reference
from cdgen.kernels.dispatch import check_native, choose_backend, native, threads


def rms_norm(
    x: torch.Tensor,  # [B, D] float32, contiguous; becomes x + delta
    delta: torch.Tensor | None,  # [B, D]: what the previous block adds to the residual stream
    weight: torch.Tensor,  # [D]
    eps: float,
    backend: str | None = None,
) -> torch.Tensor:  # [B, D]
    """x += delta in place, then its RMS norm (Zhang and Sennrich 2019)."""
    if choose_backend(x.device, backend) == "reference":
        if delta is not None:
            x += delta
        return reference.rms_norm(x, weight, eps)
    check_native("rms_norm", x, delta, weight)
    out = torch.empty_like(x)
    native.rms_norm(
        x.data_ptr(), 0 if delta is None else delta.data_ptr(), weight.data_ptr(), out.data_ptr(),
        *x.shape, eps, threads(),
    )  # fmt: skip
    return out


def rotary_to_cache(
    qkv: torch.Tensor,  # [B, (H + 2 Hkv) * D] float32: queries, keys, values of one token per row
    cos: torch.Tensor,  # [T, D / 2] float32
    sin: torch.Tensor,  # [T, D / 2] float32
    positions: torch.Tensor,  # [B] int64 in [0, T)
    keys: torch.Tensor,  # [B, Hkv, T, D] float32 cache, written at each row's position
    values: torch.Tensor,  # [B, Hkv, T, D] float32 cache, likewise
    *,
    query_norm: torch.Tensor | None = None,  # [D]: RMS norm of every head first (Qwen3)
    key_norm: torch.Tensor | None = None,  # [D]
    eps: float = 1e-6,
    backend: str | None = None,
) -> torch.Tensor:  # [B, H, D]: the rotated queries
    """Rotary embedding (Su et al. 2021) of queries and keys, and the write of keys and values."""
    rows, kv_heads, _, width = keys.shape
    heads = qkv.shape[1] // width - 2 * kv_heads
    if choose_backend(qkv.device, backend) == "reference":
        q, k, v = qkv.view(rows, -1, width).split([heads, kv_heads, kv_heads], dim=1)
        if query_norm is not None:
            q = reference.rms_norm(q, query_norm, eps)
        if key_norm is not None:
            k = reference.rms_norm(k, key_norm, eps)
        row = torch.arange(rows)
        keys[row, :, positions] = reference.rotary(k, cos[positions], sin[positions])
        values[row, :, positions] = v
        return reference.rotary(q, cos[positions], sin[positions])
    check_native("rotary_to_cache", qkv, cos, sin, keys, values, query_norm, key_norm)
    if width > 1024:
        raise ValueError(f"rotary_to_cache: expected heads of at most 1024 columns, got {width}")
    query = torch.empty(rows, heads, width)
    native.rotary_to_cache(
        qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(), positions.data_ptr(),
        0 if query_norm is None else query_norm.data_ptr(),
        0 if key_norm is None else key_norm.data_ptr(),
        eps, query.data_ptr(), keys.data_ptr(), values.data_ptr(),
        rows, heads, kv_heads, keys.shape[2], width, threads(),
    )  # fmt: skip
    return query


def swiglu(
    gate_up: torch.Tensor,  # [B, 2 F] float32
    backend: str | None = None,
) -> torch.Tensor:  # [B, F]
    """silu(gate) * up of the two halves of each row (Shazeer 2020)."""
    if choose_backend(gate_up.device, backend) == "reference":
        return reference.swiglu(gate_up)
    check_native("swiglu", gate_up)
    out = torch.empty(len(gate_up), gate_up.shape[1] // 2)
    native.swiglu(gate_up.data_ptr(), out.data_ptr(), *out.shape, threads())
    return out
