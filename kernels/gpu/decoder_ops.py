"""Triton kernels of the ops between a decoder layer's matrix products: one pass over each input.

Inside, everything is fp32; what kernels/reference.py rounds to the input's dtype on the way is
rounded here too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cdgen.kernels.gpu.precision import require_fp8, rounded

# Numbers per program and per thread, in blocks of a row or of 16 heads. Compiled for compute
# capability 8.0, 9.0 and 10.0: 16-byte loads and stores, no spills, up to 72 registers. Fewer heads
# per program made the rotary kernel pass its tables between threads through shared memory. Not
# timed on a GPU yet.
_NORM_NUMBERS_PER_THREAD, _MOST_WARPS = 16, 16
_ROTARY_HEADS, _ROTARY_PAIRS_PER_THREAD = 16, 8
_SWIGLU_BLOCK, _SWIGLU_NUMBERS_PER_THREAD = 1024, 8


def _warps(threads: int) -> int:
    return max(1, min(_MOST_WARPS, threads // 32))


@triton.jit(do_not_specialize=["rows_per_model"])
def _rms_norm(
    x,  # [R, D]; becomes x + delta
    delta,  # [R, D]
    weight,  # [M, D]
    out,  # [R, D]
    eps,
    rows_per_model,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
):
    # x += delta;  out = x / sqrt(mean(x^2) + eps) * weight
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    start = row.to(tl.int64) * WIDTH
    value = tl.load(x + start + column, mask=inside, other=0.0)
    if ADDS:
        added = tl.load(delta + start + column, mask=inside, other=0.0)
        value = rounded(value.to(tl.float32) + added.to(tl.float32), value.dtype)
        tl.store(x + start + column, value, mask=inside)
    wide = value.to(tl.float32)
    normed = wide * tl.rsqrt(tl.sum(wide * wide, axis=0) / WIDTH + eps)
    gain = tl.load(weight + (row // rows_per_model) * WIDTH + column, mask=inside, other=0.0)
    product = rounded(normed, value.dtype).to(tl.float32) * gain.to(tl.float32)
    tl.store(out + start + column, rounded(product, value.dtype), mask=inside)


@torch.library.custom_op("cdgen::rms_norm", mutates_args=("x",))
def rms_norm(
    x: torch.Tensor,  # [R, D], contiguous as all tensors here
    delta: torch.Tensor | None,  # [R, D]
    weight: torch.Tensor,  # [M, D]: row r takes weight[r // (R / M)]
    eps: float,
) -> torch.Tensor:  # [R, D]
    rows, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _rms_norm[(rows,)](
            x, x if delta is None else delta, weight, out, eps, rows // len(weight),
            WIDTH=width, BLOCK=block, ADDS=delta is not None,
            num_warps=_warps(block // _NORM_NUMBERS_PER_THREAD),
        )  # fmt: skip
    return out


@rms_norm.register_fake
def _(x, delta, weight, eps):
    return torch.empty_like(x)


def rms_norm_bytes(x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor) -> int:
    """x and weight read and the result written; with delta, that is read and x written back:
    (2 or 4) R D + M D numbers."""
    return (2 if delta is None else 4) * x.nbytes + weight.nbytes


@triton.jit
def _normed_halves(low, high, norm, model, offset, inside, eps, WIDTH: tl.constexpr):
    """The two halves of every head, normed and rounded as kernels/reference.py `rms_norm` does."""
    squares = tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)
    scale = tl.rsqrt(squares / WIDTH + eps)[:, None]
    dtype: tl.constexpr = norm.dtype.element_ty
    first = norm + model * WIDTH + offset
    gain_low = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    gain_high = tl.load(first + WIDTH // 2, mask=inside, other=0.0).to(tl.float32)
    low = rounded(rounded(low * scale, dtype).to(tl.float32) * gain_low, dtype)
    high = rounded(rounded(high * scale, dtype).to(tl.float32) * gain_high, dtype)
    return low.to(tl.float32), high.to(tl.float32)


@triton.jit(do_not_specialize=["batch", "rows_per_model"])
def _rotary_to_cache(
    qkv,  # [R, (H + 2 Hkv) * D]
    cos,  # [T, D / 2]
    sin,  # [T, D / 2]
    positions,  # [B]
    query_norm,  # [M, D]
    key_norm,  # [M, D]
    query,  # [R, H, D]
    keys,  # [R, Hkv, T, D]
    values,  # [R, Hkv, T, D]
    batch,
    capacity,
    rows_per_model,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    QUERY_NORM: tl.constexpr,
    KEY_NORM: tl.constexpr,
):
    # low_i, high_i = x_i, x_{i + D/2}:  low cos_i - high sin_i,  high cos_i + low sin_i
    row = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)[:, None]
    i = tl.arange(0, BLOCK_HALF)[None, :]
    HALF: tl.constexpr = WIDTH // 2
    ALL: tl.constexpr = HEADS + 2 * KV_HEADS
    is_query, is_value = head < HEADS, head >= HEADS + KV_HEADS
    is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
    inside = (i < HALF) & (head < ALL)

    source = qkv + row.to(tl.int64) * (ALL * WIDTH) + head * WIDTH + i
    low = tl.load(source, mask=inside, other=0.0)
    high = tl.load(source + HALF, mask=inside, other=0.0)
    position = tl.load(positions + row % batch)
    angle = position * HALF + i
    c = tl.load(cos + angle, mask=i < HALF, other=0.0)
    s = tl.load(sin + angle, mask=i < HALF, other=0.0)

    x, y = low.to(tl.float32), high.to(tl.float32)
    model = row // rows_per_model
    if QUERY_NORM:
        a, b = _normed_halves(x, y, query_norm, model, i, i < HALF, eps, WIDTH)
        x, y = tl.where(is_query, a, x), tl.where(is_query, b, y)
    if KEY_NORM:
        a, b = _normed_halves(x, y, key_norm, model, i, i < HALF, eps, WIDTH)
        x, y = tl.where(is_key, a, x), tl.where(is_key, b, y)
    turned_low, turned_high = x * c - y * s, y * c + x * s
    target = query + row.to(tl.int64) * (HEADS * WIDTH) + head * WIDTH + i
    tl.store(target, rounded(turned_low, low.dtype), mask=inside & is_query)
    tl.store(target + HALF, rounded(turned_high, low.dtype), mask=inside & is_query)
    STORED: tl.constexpr = keys.dtype.element_ty
    if low.dtype != STORED:
        low, high = rounded(x, STORED), rounded(y, STORED)
    cell = (row.to(tl.int64) * KV_HEADS * capacity + position) * WIDTH
    kv_head = tl.where(is_value, head - HEADS - KV_HEADS, head - HEADS).to(tl.int64)
    offset = cell + kv_head * capacity * WIDTH + i
    tl.store(keys + offset, rounded(turned_low, STORED), mask=inside & is_key)
    tl.store(keys + offset + HALF, rounded(turned_high, STORED), mask=inside & is_key)
    tl.store(values + offset, low, mask=inside & is_value)
    tl.store(values + offset + HALF, high, mask=inside & is_value)


@torch.library.custom_op("cdgen::rotary_to_cache", mutates_args=("keys", "values"))
def rotary_to_cache(
    qkv: torch.Tensor,  # [R, (H + 2 Hkv) * D], contiguous as all tensors here
    cos: torch.Tensor,  # [T, D / 2] float32
    sin: torch.Tensor,  # [T, D / 2] float32
    positions: torch.Tensor,  # [B] int64: row r takes positions[r % B]
    keys: torch.Tensor,  # [R, Hkv, T, D], like qkv, or float8_e4m3fn
    values: torch.Tensor,  # [R, Hkv, T, D], like keys
    query_norm: torch.Tensor | None,  # [M, D]: row r takes query_norm[r // (R / M)]
    key_norm: torch.Tensor | None,  # [M, D], likewise
    eps: float,
) -> torch.Tensor:  # [R, H, D]
    rows, kv_heads, capacity, width = keys.shape
    heads = qkv.shape[1] // width - 2 * kv_heads
    query = torch.empty(rows, heads, width, dtype=qkv.dtype, device=qkv.device)
    half = triton.next_power_of_2(width // 2)
    models = next((len(norm) for norm in (query_norm, key_norm) if norm is not None), 1)
    with torch.cuda.device_of(qkv):  # Triton launches on the current device
        require_fp8("keys", keys)
        _rotary_to_cache[(rows, triton.cdiv(heads + 2 * kv_heads, _ROTARY_HEADS))](
            qkv, cos, sin, positions,
            qkv if query_norm is None else query_norm, qkv if key_norm is None else key_norm,
            query, keys, values, len(positions), capacity, rows // models, eps,
            HEADS=heads, KV_HEADS=kv_heads, WIDTH=width, BLOCK_HEADS=_ROTARY_HEADS, BLOCK_HALF=half,
            QUERY_NORM=query_norm is not None, KEY_NORM=key_norm is not None,
            num_warps=_warps(_ROTARY_HEADS * half // _ROTARY_PAIRS_PER_THREAD),
        )  # fmt: skip
    return query


@rotary_to_cache.register_fake
def _(qkv, cos, sin, positions, keys, values, query_norm, key_norm, eps):
    rows, kv_heads, _, width = keys.shape
    return qkv.new_empty(rows, qkv.shape[1] // width - 2 * kv_heads, width)


def rotary_to_cache_bytes(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    query_norm: torch.Tensor | None = None,
    key_norm: torch.Tensor | None = None,
) -> int:
    """qkv read, and as many numbers written to queries and, in its own size, to the cache:
    2 R (H + 2 Hkv) D; B positions, B rows of each table at most, and the norms read."""
    rows, kv_heads, _, width = keys.shape
    saved = 2 * rows * kv_heads * width * (qkv.element_size() - keys.element_size())
    tables = 2 * min(len(cos), len(positions)) * cos[0].nbytes
    norms = sum(norm.nbytes for norm in (query_norm, key_norm) if norm is not None)
    return 2 * qkv.nbytes - saved + positions.nbytes + tables + norms


@triton.jit
def _swiglu(
    gate_up,  # [R, 2 F]
    out,  # [R, F]
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # gate / (1 + exp(-gate)) * up
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    source = gate_up + row * (2 * WIDTH) + column
    gate = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(source + WIDTH, mask=inside, other=0.0).to(tl.float32)
    product = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * WIDTH + column, rounded(product, out.dtype.element_ty), mask=inside)


@torch.library.custom_op("cdgen::swiglu", mutates_args=())
def swiglu(
    gate_up: torch.Tensor,  # [R, 2 F], contiguous
) -> torch.Tensor:  # [R, F]
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    block = min(_SWIGLU_BLOCK, triton.next_power_of_2(width))
    with torch.cuda.device_of(gate_up):  # Triton launches on the current device
        _swiglu[(rows, triton.cdiv(width, block))](
            gate_up, out, WIDTH=width, BLOCK=block,
            num_warps=_warps(block // _SWIGLU_NUMBERS_PER_THREAD),
        )  # fmt: skip
    return out


@swiglu.register_fake
def _(gate_up):
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


def swiglu_bytes(gate_up: torch.Tensor) -> int:
    """Both halves read and one written: 3 R F numbers."""
    return gate_up.nbytes // 2 * 3
