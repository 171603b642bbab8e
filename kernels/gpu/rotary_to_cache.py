"""Triton kernel that rotates queries and keys and writes keys and values to the cache, in one pass.

Inside, everything is fp32, rounded to the input's dtype wherever kernels/reference.py rounds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cdgen.kernels.gpu.precision import require_fp8, rounded

# Compiled for compute capability 8.0, 9.0 and 10.0: 16-byte loads and stores, no spills. With fewer
# heads per program, the tables passed between threads through shared memory. Not timed on a GPU
# yet.
_HEADS_PER_PROGRAM, _PAIRS_PER_THREAD, _MOST_WARPS = 16, 8, 16


@triton.jit
def _normed_halves(low, high, norm, model, offset, inside, eps, HEAD_DIM: tl.constexpr):
    """Return both halves of every head, normed and rounded as `reference.rms_norm` does."""
    squares = tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)
    scale = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
    dtype: tl.constexpr = norm.dtype.element_ty
    first = norm + model * HEAD_DIM + offset
    gain_low = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    gain_high = tl.load(first + HEAD_DIM // 2, mask=inside, other=0.0).to(tl.float32)
    low = rounded(rounded(low * scale, dtype).to(tl.float32) * gain_low, dtype)
    high = rounded(rounded(high * scale, dtype).to(tl.float32) * gain_high, dtype)
    return low.to(tl.float32), high.to(tl.float32)


@triton.jit(do_not_specialize=["batch", "rows_per_model"])
def _rotary_to_cache(
    qkv,  # [R, (H + 2 Hkv) * Dh]
    cos,  # [P, Dh / 2]
    sin,  # [P, Dh / 2]
    positions,  # [B]
    query_norm,  # [M, Dh]
    key_norm,  # [M, Dh]
    query,  # [R, H, Dh]
    keys,  # [R, Hkv, T, Dh]
    values,  # [R, Hkv, T, Dh]
    batch,
    capacity,
    rows_per_model,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    QUERY_NORM: tl.constexpr,
    KEY_NORM: tl.constexpr,
):
    # low_i, high_i = x_i, x_{i + Dh/2}:  low cos_i - high sin_i,  high cos_i + low sin_i
    row = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)[:, None]
    i = tl.arange(0, BLOCK_HALF)[None, :]
    HALF: tl.constexpr = HEAD_DIM // 2
    ALL: tl.constexpr = HEADS + 2 * KV_HEADS
    is_query, is_value = head < HEADS, head >= HEADS + KV_HEADS
    is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
    inside = (i < HALF) & (head < ALL)

    source = qkv + row.to(tl.int64) * (ALL * HEAD_DIM) + head * HEAD_DIM + i
    low = tl.load(source, mask=inside, other=0.0)
    high = tl.load(source + HALF, mask=inside, other=0.0)
    position = tl.load(positions + row % batch)
    angle = position * HALF + i
    c = tl.load(cos + angle, mask=i < HALF, other=0.0)
    s = tl.load(sin + angle, mask=i < HALF, other=0.0)

    x, y = low.to(tl.float32), high.to(tl.float32)
    model = row // rows_per_model
    if QUERY_NORM:
        a, b = _normed_halves(x, y, query_norm, model, i, i < HALF, eps, HEAD_DIM)
        x, y = tl.where(is_query, a, x), tl.where(is_query, b, y)
    if KEY_NORM:
        a, b = _normed_halves(x, y, key_norm, model, i, i < HALF, eps, HEAD_DIM)
        x, y = tl.where(is_key, a, x), tl.where(is_key, b, y)
    rotated_low, rotated_high = x * c - y * s, y * c + x * s
    target = query + row.to(tl.int64) * (HEADS * HEAD_DIM) + head * HEAD_DIM + i
    tl.store(target, rounded(rotated_low, low.dtype), mask=inside & is_query)
    tl.store(target + HALF, rounded(rotated_high, low.dtype), mask=inside & is_query)
    STORED: tl.constexpr = keys.dtype.element_ty
    if low.dtype != STORED:
        low, high = rounded(x, STORED), rounded(y, STORED)
    entry = position.to(tl.int32) % capacity
    cell = (row.to(tl.int64) * KV_HEADS * capacity + entry) * HEAD_DIM
    kv_head = tl.where(is_value, head - HEADS - KV_HEADS, head - HEADS).to(tl.int64)
    offset = cell + kv_head * capacity * HEAD_DIM + i
    tl.store(keys + offset, rounded(rotated_low, STORED), mask=inside & is_key)
    tl.store(keys + offset + HALF, rounded(rotated_high, STORED), mask=inside & is_key)
    tl.store(values + offset, low, mask=inside & is_value)
    tl.store(values + offset + HALF, high, mask=inside & is_value)


@torch.library.custom_op("cdgen::rotary_to_cache", mutates_args=("keys", "values"))
def rotary_to_cache(
    qkv: torch.Tensor,  # [R, (H + 2 Hkv) * Dh], contiguous as all tensors here
    cos: torch.Tensor,  # [P, Dh / 2] float32
    sin: torch.Tensor,  # [P, Dh / 2] float32
    positions: torch.Tensor,  # [B] int64: row r takes positions[r % B]
    keys: torch.Tensor,  # [R, Hkv, T, Dh], like qkv, or float8_e4m3fn; written at position % T
    values: torch.Tensor,  # [R, Hkv, T, Dh], like keys
    query_norm: torch.Tensor | None,  # [M, Dh]: row r takes query_norm[r // (R / M)]
    key_norm: torch.Tensor | None,  # [M, Dh], taken as query_norm is
    eps: float,
) -> torch.Tensor:  # [R, H, Dh]
    rows, kv_heads, capacity, head_dim = keys.shape
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    query = torch.empty(rows, heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    block_half = triton.next_power_of_2(head_dim // 2)
    threads = _HEADS_PER_PROGRAM * block_half // _PAIRS_PER_THREAD
    models = next((len(norm) for norm in (query_norm, key_norm) if norm is not None), 1)
    with torch.cuda.device_of(qkv):  # Triton launches on the current device
        require_fp8("keys", keys)
        _rotary_to_cache[(rows, triton.cdiv(heads + 2 * kv_heads, _HEADS_PER_PROGRAM))](
            qkv,
            cos,
            sin,
            positions,
            qkv if query_norm is None else query_norm,
            qkv if key_norm is None else key_norm,
            query,
            keys,
            values,
            len(positions),
            capacity,
            rows // models,
            eps,
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=head_dim,
            BLOCK_HEADS=_HEADS_PER_PROGRAM,
            BLOCK_HALF=block_half,
            QUERY_NORM=query_norm is not None,
            KEY_NORM=key_norm is not None,
            num_warps=max(1, min(_MOST_WARPS, threads // 32)),
        )
    return query


@rotary_to_cache.register_fake
def _(qkv, cos, sin, positions, keys, values, query_norm, key_norm, eps):
    rows, kv_heads, _, head_dim = keys.shape
    return qkv.new_empty(rows, qkv.shape[1] // head_dim - 2 * kv_heads, head_dim)


def rotary_to_cache_bytes(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    query_norm: torch.Tensor | None = None,
    key_norm: torch.Tensor | None = None,
) -> int:
    """Return the bytes that the op moves: 2 R (H + 2 Hkv) Dh numbers and a little more. It reads
    qkv and writes as many numbers: queries, and keys and values in the cache's dtype. It also reads
    B positions, at most B rows of each table, and the norms."""
    rows, kv_heads, _, head_dim = keys.shape
    saved = 2 * rows * kv_heads * head_dim * (qkv.element_size() - keys.element_size())
    tables = 2 * min(len(cos), len(positions)) * cos[0].nbytes
    norms = sum(norm.nbytes for norm in (query_norm, key_norm) if norm is not None)
    return 2 * qkv.nbytes - saved + positions.nbytes + tables + norms
