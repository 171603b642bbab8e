"""The ops between the matrix products of a decoder layer, each one pass over its input.

Dtypes: float32; on every backend but cpu also bfloat16 and float16, with fp32 inside, and KV caches
of float8_e4m3fn beside any of these. The rows of M models may be stacked, GOOD's before BAD's, each
model with weights of its own for its R / M rows.
"""

from __future__ import annotations

import torch

from cdgen.kernels import reference
from cdgen.kernels.dispatch import Backend, check, choose_backend, native, threads

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_dtype(name: str, x: torch.Tensor, backend: Backend) -> None:
    """Raises ValueError on numbers that the backend's kernels cannot read."""
    dtypes = _DTYPES[:1] if backend == "cpu" else _DTYPES
    if x.dtype not in dtypes:
        expected = " or ".join(map(str, dtypes))
        raise ValueError(f"{name}: expected {expected}, got {x.dtype} on backend {backend!r}")


def check_per_sequence(name: str, x: torch.Tensor, rows: int) -> None:
    """Raises ValueError unless `x` is [B] int64, contiguous, and B divides the number of rows."""
    if x.dim() != 1 or len(x) == 0 or rows % len(x):
        raise ValueError(
            f"{name}: expected one per row [{rows}] or per sequence, so that stacked models share"
            f" them, got {list(x.shape)}"
        )
    check(name, x, (len(x),), torch.int64)


def check_caches(
    keys: torch.Tensor,
    values: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    backend: Backend,
) -> None:
    """Raises ValueError unless both have that shape and are of `dtype`, or of fp8 on every backend
    but cpu.

    fp8 comes without scales. Rotated keys and values of the models at hand are below 32, e4m3 ends
    at 448; the few percent below 2^-6, where its step stops shrinking, are off by 2^-10 at most,
    beside an rms of 0.15 in the smallest layer. What costs is four bits per number: with a scale
    per layer KL from an fp32 cache was the same within a tenth (bench/ops/kv_dtype.py measures it).
    """
    fp8 = torch.float8_e4m3fn
    stored = fp8 if keys.dtype is fp8 and backend != "cpu" else dtype
    check("keys", keys, shape, stored)
    check("values", values, shape, stored)


def check_weight(name: str, weight: torch.Tensor, x: torch.Tensor, width: int) -> int:
    """M; ValueError unless `weight` is [D] or [M, D] and M divides the rows of `x`."""
    if weight.dim() == 1:
        check(name, weight, (width,), x.dtype)
        return 1
    models = weight.shape[0]
    if models == 0 or len(x) % models:
        raise ValueError(
            f"{name}: expected [D] or [M, D] with M models that share {len(x)} rows evenly,"
            f" got {list(weight.shape)}"
        )
    check(name, weight, (models, width), x.dtype)
    return models


def per_row(weight: torch.Tensor, rows: int) -> torch.Tensor:  # [D] | [M, D] -> [R, D]
    weight = weight.view(-1, weight.shape[-1])
    return weight.repeat_interleave(rows // len(weight), dim=0)


def address(x: torch.Tensor | None, row: int) -> int:
    """Of the first number of a row; 0 for a tensor that is not given."""
    return 0 if x is None else x.data_ptr() + row * x.stride(0) * x.element_size()


def rms_norm(
    x: torch.Tensor,  # [R, D], contiguous; becomes x + delta
    delta: torch.Tensor | None,  # [R, D]: what the previous block adds to the residual stream
    weight: torch.Tensor,  # [D], or [M, D]: row r takes weight[r // (R / M)]
    eps: float,
    backend: str | None = None,
) -> torch.Tensor:  # [R, D], like x
    """x += delta in place, then its RMS norm (Zhang and Sennrich 2019).

    Rounds to x's dtype after the sum, the normalisation and the weight. Raises ValueError on
    tensors that do not fit, as the other ops here do.
    """
    rows, width = x.shape
    chosen = choose_backend(x.device, backend)
    check_dtype("x", x, chosen)
    check("x", x, (rows, width), x.dtype)
    models = check_weight("weight", weight, x, width)
    if delta is not None:
        check("delta", delta, (rows, width), x.dtype)
    if chosen == "triton":
        from cdgen.kernels.gpu import decoder_ops as gpu

        return gpu.rms_norm(x, delta, weight.view(models, width), eps)
    if chosen == "reference":
        if delta is not None:
            x += delta
        return reference.rms_norm(x, per_row(weight, rows), eps)
    out = torch.empty_like(x)
    share = rows // models
    for model in range(models):
        row = model * share
        native.rms_norm(
            address(x, row), address(delta, row), address(weight, model), address(out, row),
            share, width, eps, threads(),
        )  # fmt: skip
    return out


def rotary_to_cache(
    qkv: torch.Tensor,  # [R, (H + 2 Hkv) * D]: queries, keys, values of one token per row
    cos: torch.Tensor,  # [T, D / 2] float32
    sin: torch.Tensor,  # [T, D / 2] float32
    positions: torch.Tensor,  # [B] int64 in [0, T): row r takes positions[r % B]
    keys: torch.Tensor,  # [R, Hkv, T, D] cache, like qkv or fp8, written at each row's position
    values: torch.Tensor,  # [R, Hkv, T, D] cache, like keys
    *,
    query_norm: torch.Tensor | None = None,  # [D] or [M, D]: RMS norm of every head first (Qwen3)
    key_norm: torch.Tensor | None = None,  # [D] or [M, D]
    eps: float = 1e-6,
    backend: str | None = None,
) -> torch.Tensor:  # [R, H, D], like qkv: the rotated queries
    """Rotary embedding (Su et al. 2021) of queries and keys, and the write of keys and values.

    Keys are rounded once, from fp32 to the cache's dtype; fp8 saturates at 448 and keeps NaN.
    """
    chosen = choose_backend(qkv.device, backend)
    models = _check_rotary(
        qkv, cos, sin, positions, keys, values, query_norm, key_norm, chosen
    )  # fmt: skip
    rows, kv_heads, capacity, width = keys.shape
    heads = qkv.shape[1] // width - 2 * kv_heads
    if chosen == "triton":
        from cdgen.kernels.gpu import decoder_ops as gpu

        return gpu.rotary_to_cache(
            qkv, cos, sin, positions, keys, values,
            None if query_norm is None else query_norm.view(models, width),
            None if key_norm is None else key_norm.view(models, width), eps,
        )  # fmt: skip
    if len(positions) < rows:
        positions = positions.repeat(rows // len(positions))
    if chosen == "reference":
        return _rotary_reference(
            qkv, cos, sin, positions, keys, values, query_norm, key_norm, eps
        )  # fmt: skip
    query, share = torch.empty(rows, heads, width), rows // models
    for model in range(models):
        row = model * share
        native.rotary_to_cache(
            address(qkv, row), cos.data_ptr(), sin.data_ptr(), address(positions, row),
            address(query_norm, model), address(key_norm, model), eps,
            address(query, row), address(keys, row), address(values, row),
            share, heads, kv_heads, capacity, width, threads(),
        )  # fmt: skip
    return query


def _check_rotary(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_norm: torch.Tensor | None,
    key_norm: torch.Tensor | None,
    backend: Backend,
) -> int:  # M
    rows, kv_heads, capacity, width = keys.shape
    heads = qkv.shape[1] // width - 2 * kv_heads
    if heads < 1 or not 2 <= width <= 1024 or width % 2:
        raise ValueError(
            f"qkv: expected [{rows}, (H + 2 * {kv_heads}) * D] with an even head width D up to"
            f" 1024, got {list(qkv.shape)} and D = {width}"
        )
    check_dtype("qkv", qkv, backend)
    check("qkv", qkv, (rows, (heads + 2 * kv_heads) * width), qkv.dtype)
    for name, table in (("cos", cos), ("sin", sin)):
        check(name, table, (capacity, width // 2))
    check_per_sequence("positions", positions, rows)
    check_caches(keys, values, (rows, kv_heads, capacity, width), qkv.dtype, backend)
    models = 1
    for name, norm in (("query_norm", query_norm), ("key_norm", key_norm)):
        if norm is not None:
            models = check_weight(name, norm, qkv, width)
    if query_norm is not None and key_norm is not None:
        check("key_norm", key_norm, tuple(query_norm.shape), qkv.dtype)
    return models


def _rotary_reference(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,  # [R]
    keys: torch.Tensor,
    values: torch.Tensor,
    query_norm: torch.Tensor | None,  # [D] | [M, D]
    key_norm: torch.Tensor | None,  # [D] | [M, D]
    eps: float,
) -> torch.Tensor:
    rows, kv_heads, _, width = keys.shape
    heads = qkv.shape[1] // width - 2 * kv_heads
    q, k, v = qkv.view(rows, -1, width).split([heads, kv_heads, kv_heads], dim=1)
    if query_norm is not None:
        q = reference.rms_norm(q, per_row(query_norm, rows)[:, None], eps)
    if key_norm is not None:
        k = reference.rms_norm(k, per_row(key_norm, rows)[:, None], eps)
    row = torch.arange(rows, device=qkv.device)
    turned = reference.rotary(k.float(), cos[positions], sin[positions])
    keys[row, :, positions] = reference.stored(turned, keys.dtype)
    values[row, :, positions] = reference.stored(v, values.dtype)
    return reference.rotary(q, cos[positions], sin[positions])


def swiglu(
    gate_up: torch.Tensor,  # [R, 2 F]
    backend: str | None = None,
) -> torch.Tensor:  # [R, F], like gate_up
    """silu(gate) * up of the two halves of each row (Shazeer 2020)."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    chosen = choose_backend(gate_up.device, backend)
    check_dtype("gate_up", gate_up, chosen)
    check("gate_up", gate_up, (rows, 2 * width), gate_up.dtype)
    if chosen == "triton":
        from cdgen.kernels.gpu import decoder_ops as gpu

        return gpu.swiglu(gate_up)
    if chosen == "reference":
        return reference.swiglu(gate_up)
    out = torch.empty(rows, width)
    native.swiglu(gate_up.data_ptr(), out.data_ptr(), rows, width, threads())
    return out
