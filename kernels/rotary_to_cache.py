"""Rotary embedding of one token per row, and the write of its keys and values to the KV cache."""

from __future__ import annotations

from typing import NamedTuple

import torch

from cdgen.kernels import reference
from cdgen.kernels.arguments import (
    addresses,
    check_caches,
    check_dtype,
    check_per_sequence,
    check_tensor,
    check_weight,
    dtype_name,
    native_cache,
    per_row,
)
from cdgen.kernels.dispatch import Backend, choose_backend, native, threads
from cdgen.kernels.recording import empty

_WIDEST_HEAD = 1024  # the native kernel keeps a normed head on its stack


class _Args(NamedTuple):
    """The arguments of `rotary_to_cache`, in the order that the Triton op takes them."""

    qkv: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    positions: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    eps: float
    scales: torch.Tensor | None

    @property
    def heads(self) -> int:
        return self.qkv.shape[1] // self.keys.shape[3] - 2 * self.keys.shape[1]


def rotary_to_cache(
    qkv: torch.Tensor,  # [R, (H + 2 Hkv) * Dh]: queries, keys, values of one token per row
    cos: torch.Tensor,  # [P, Dh / 2] float32
    sin: torch.Tensor,  # [P, Dh / 2] float32
    positions: torch.Tensor,  # [B] int64 in [0, P): row r takes positions[r % B]
    keys: torch.Tensor,  # [R, Hkv, T, Dh] cache, written at entry position % T
    values: torch.Tensor,  # [R, Hkv, T, Dh] cache, like keys
    *,
    query_norm: torch.Tensor | None = None,  # [Dh] or [M, Dh]: first, RMS norm of each head (Qwen3)
    key_norm: torch.Tensor | None = None,  # [Dh] or [M, Dh]
    eps: float = 1e-6,
    scales: torch.Tensor | None = None,  # [2, R, Hkv, T] float32, of an int8 cache; written too
    backend: str | None = None,
) -> torch.Tensor:  # [R, H, Dh], like qkv: the rotated queries
    """Rotate queries and keys (Su et al. 2021), write keys and values to the caches, and return the
    queries.

    A cache of T < P entries is a ring, which holds a row's last T positions. Keys are rounded once,
    from fp32 to the cache's dtype; fp8 saturates at 448 and keeps NaN, int8 is
    `reference.quantized`. kernels/arguments.py lists dtypes and stacked models. Raises ValueError
    on tensors that do not fit; positions within [0, P) are the caller's promise.
    """
    chosen = choose_backend(qkv.device, backend)
    args = _Args(qkv, cos, sin, positions, keys, values, query_norm, key_norm, eps, scales)
    models = _check(args, chosen)
    if chosen == "triton":
        return _triton(args, models)
    return _reference(args) if chosen == "reference" else _native(args, models)


def _check(args: _Args, backend: Backend) -> int:  # M
    rows, kv_heads, capacity, head_dim = args.keys.shape
    heads = args.heads
    if heads < 1 or not 2 <= head_dim <= _WIDEST_HEAD or head_dim % 2:
        raise ValueError(
            f"qkv: expected [{rows}, (H + 2 * {kv_heads}) * head_dim] with an even head_dim up to"
            f" {_WIDEST_HEAD}, got {list(args.qkv.shape)} and head_dim {head_dim}"
        )
    check_dtype("qkv", args.qkv, backend)
    check_tensor("qkv", args.qkv, (rows, (heads + 2 * kv_heads) * head_dim), args.qkv.dtype)
    for name, table in (("cos", args.cos), ("sin", args.sin)):
        check_tensor(name, table, (max(args.cos.shape[0], capacity), head_dim // 2))
    check_per_sequence("positions", args.positions, rows)
    shape = rows, kv_heads, capacity, head_dim
    check_caches(args.keys, args.values, args.scales, shape, args.qkv.dtype, backend)
    models = 1
    for name, norm in (("query_norm", args.query_norm), ("key_norm", args.key_norm)):
        if norm is not None:
            models = check_weight(name, norm, rows, head_dim, args.qkv.dtype)
    if args.query_norm is not None and args.key_norm is not None:
        check_tensor("key_norm", args.key_norm, tuple(args.query_norm.shape), args.qkv.dtype)
    return models


def _triton(args: _Args, models: int) -> torch.Tensor:
    from cdgen.kernels.gpu import rotary_to_cache as gpu

    query_norm, key_norm = (
        None if norm is None else norm.view(models, -1) for norm in (args.query_norm, args.key_norm)
    )
    return gpu.rotary_to_cache(*args._replace(query_norm=query_norm, key_norm=key_norm)[:-1])


def _native(args: _Args, models: int) -> torch.Tensor:
    rows, kv_heads, capacity, head_dim = args.keys.shape
    heads = args.heads
    query = empty(rows, heads, head_dim, dtype=args.qkv.dtype)
    shape = native.CacheShape(rows, heads, kv_heads, capacity, head_dim)
    inputs = addresses(args.qkv, args.cos, args.sin, args.positions, args.query_norm, args.key_norm)
    native.rotary_to_cache(
        *inputs,
        query.data_ptr(),
        dtype_name(args.qkv.dtype),
        native_cache(args.keys, args.values, args.scales),
        shape,
        args.positions.shape[0],
        models,
        args.eps,
        threads(),
    )
    return query


def _reference(args: _Args) -> torch.Tensor:
    rows, kv_heads, capacity, head_dim = args.keys.shape
    positions = args.positions.repeat(rows // len(args.positions))
    q, k, v = args.qkv.view(rows, -1, head_dim).split([args.heads, kv_heads, kv_heads], dim=1)
    if args.query_norm is not None:
        q = reference.rms_norm(q, per_row(args.query_norm, rows)[:, None], args.eps)
    if args.key_norm is not None:
        k = reference.rms_norm(k, per_row(args.key_norm, rows)[:, None], args.eps)
    row, cos, sin = torch.arange(rows, device=q.device), args.cos[positions], args.sin[positions]
    rotated = reference.rotary(k.float(), cos, sin)
    entries = positions % capacity
    for i, (cache, new) in enumerate(((args.keys, rotated), (args.values, v))):
        if args.scales is None:
            cache[row, :, entries] = reference.stored(new, cache.dtype)
        else:
            cache[row, :, entries], args.scales[i, row, :, entries] = reference.quantized(new)
    return reference.rotary(q, cos, sin)
