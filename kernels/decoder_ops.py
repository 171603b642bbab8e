"""The ops between the matrix products of a decoder layer, each one pass over its input."""

from __future__ import annotations

import torch

from cdgen.kernels import reference
from cdgen.kernels.dispatch import check, choose_backend, native, threads


def rms_norm(
    x: torch.Tensor,  # [B, D] float32, contiguous; becomes x + delta
    delta: torch.Tensor | None,  # [B, D]: what the previous block adds to the residual stream
    weight: torch.Tensor,  # [D]
    eps: float,
    backend: str | None = None,
) -> torch.Tensor:  # [B, D]
    """x += delta in place, then its RMS norm (Zhang and Sennrich 2019).

    Raises ValueError on tensors that do not fit, as the other ops here do.
    """
    rows, width = x.shape
    check("x", x, (rows, width))
    check("weight", weight, (width,))
    if delta is not None:
        check("delta", delta, (rows, width))
    if choose_backend(x.device, backend) == "reference":
        if delta is not None:
            x += delta
        return reference.rms_norm(x, weight, eps)
    out = torch.empty_like(x)
    native.rms_norm(
        x.data_ptr(), 0 if delta is None else delta.data_ptr(), weight.data_ptr(), out.data_ptr(),
        rows, width, eps, threads(),
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
    rows, kv_heads, capacity, width = keys.shape
    heads = qkv.shape[1] // width - 2 * kv_heads
    if heads < 1 or not 2 <= width <= 1024 or width % 2:
        raise ValueError(
            f"qkv: expected [{rows}, (H + 2 * {kv_heads}) * D] with an even head width D up to"
            f" 1024, got {list(qkv.shape)} and D = {width}"
        )
    check("qkv", qkv, (rows, (heads + 2 * kv_heads) * width))
    for name, table in (("cos", cos), ("sin", sin)):
        check(name, table, (capacity, width // 2))
    check("positions", positions, (rows,), torch.int64)
    for name, cache in (("keys", keys), ("values", values)):
        check(name, cache, (rows, kv_heads, capacity, width))
    for name, norm in (("query_norm", query_norm), ("key_norm", key_norm)):
        if norm is not None:
            check(name, norm, (width,))
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
    query = torch.empty(rows, heads, width)
    native.rotary_to_cache(
        qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(), positions.data_ptr(),
        0 if query_norm is None else query_norm.data_ptr(),
        0 if key_norm is None else key_norm.data_ptr(),
        eps, query.data_ptr(), keys.data_ptr(), values.data_ptr(),
        rows, heads, kv_heads, capacity, width, threads(),
    )  # fmt: skip
    return query


def swiglu(
    gate_up: torch.Tensor,  # [B, 2 F] float32
    backend: str | None = None,
) -> torch.Tensor:  # [B, F]
    """silu(gate) * up of the two halves of each row (Shazeer 2020)."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    check("gate_up", gate_up, (rows, 2 * width))
    if choose_backend(gate_up.device, backend) == "reference":
        return reference.swiglu(gate_up)
    out = torch.empty(rows, width)
    native.swiglu(gate_up.data_ptr(), out.data_ptr(), rows, width, threads())
    return out
