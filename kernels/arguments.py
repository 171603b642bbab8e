"""Checks that several ops make of their tensors, and what native kernels take in place of tensors.

Every check raises ValueError that names the argument, what was expected and what it got. The checks
of a decoder layer run in every step and read `x.shape[0]`: `len(x)` takes four times as long.

The ops of a decoder layer take float32 and bfloat16 on every backend, and float16 on every backend
but cpu; inside, they compute in fp32. On backend cpu the residual stream is float32 under bfloat16
weights too, and a norm rounds to the weights' dtype, which the product after it reads. The rows of
M models may be stacked, GOOD's before BAD's; each model has its own weights for its R / M rows.
"""

from __future__ import annotations

from typing import Any

import torch

from cdgen.kernels.dispatch import Backend, native

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CPU_DTYPES = (torch.float32, torch.bfloat16)
CPU_CACHES = (torch.float32, torch.bfloat16, torch.int8)
_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in (*_DTYPES, torch.int8)}


def check_tensor(
    name: str,
    x: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Check that `x` is contiguous and has this shape and dtype: kernels get bare addresses."""
    if x.shape == shape and x.dtype is dtype and x.is_contiguous():
        return
    raise ValueError(
        f"{name}: expected contiguous {list(shape)} {dtype},"
        f" got {list(x.shape)} {x.dtype} with strides {x.stride()}"
    )


def check_dtype(name: str, x: torch.Tensor, backend: Backend) -> None:
    """Check that the backend's kernels can read the dtype of `x`."""
    _expect_one_of(name, x, CPU_DTYPES if backend == "cpu" else _DTYPES, backend)


def check_residual(x: torch.Tensor, weight: torch.Tensor, backend: Backend) -> None:
    """Check that a norm's kernel can read the residual stream `x`, [R, D], and this weight."""
    _expect_one_of("x", x, (torch.float32,) if backend == "cpu" else _DTYPES, backend)
    check_tensor("x", x, (x.shape[0], x.shape[1]), x.dtype)
    weights = {"cpu": CPU_DTYPES, "triton": (x.dtype,), "reference": (x.dtype, torch.bfloat16)}
    _expect_one_of("weight", weight, weights[backend], backend)


def _expect_one_of(
    name: str, x: torch.Tensor, dtypes: tuple[torch.dtype, ...], backend: Backend
) -> None:
    if x.dtype not in dtypes:
        expected = " or ".join(map(str, dtypes))
        raise ValueError(f"{name}: expected {expected}, got {x.dtype} on backend {backend!r}")


def check_per_sequence(name: str, x: torch.Tensor, rows: int) -> None:
    """Check that `x` is contiguous [B] int64 and that B divides the number of rows."""
    if x.dim() != 1 or x.shape[0] == 0 or rows % x.shape[0]:
        raise ValueError(
            f"{name}: expected one number per row [{rows}], or one per sequence, which stacked"
            f" models share; got {list(x.shape)}"
        )
    check_tensor(name, x, (x.shape[0],), torch.int64)


def check_caches(
    keys: torch.Tensor,
    values: torch.Tensor,
    scales: torch.Tensor | None,
    shape: tuple[int, ...],  # R, Hkv, T, Dh
    dtype: torch.dtype,
    backend: Backend,
) -> None:
    """Check that both caches have this shape, and a dtype that the backend reads: `dtype`; on cpu
    also float32, bfloat16, int8; on triton also float8_e4m3fn; the reference reads all of them.

    An int8 head is its numbers times its scale, one per token and KV head: `scales`
    [2, R, Hkv, T] float32 holds those of the keys, then those of the values.

    An fp8 cache has no scales. Rotated keys and values of the measured models are below 32, and
    e4m3 ends at 448; the few percent below 2^-6, where its step stops shrinking, are off by at most
    2^-10, against an rms of 0.15 in the smallest layer. What costs accuracy is that a number has
    four bits: with one scale per layer, the KL from an fp32 cache was the same within a tenth
    (bench/ops/kv_dtype.py measures it).
    """
    dtypes = (dtype, *(() if backend == "triton" else CPU_CACHES))
    if backend != "cpu":
        dtypes += (torch.float8_e4m3fn,)
    _expect_one_of("keys", keys, dtypes, backend)
    check_tensor("keys", keys, shape, keys.dtype)
    check_tensor("values", values, shape, keys.dtype)
    if (keys.dtype is torch.int8) is not (scales is not None):
        raise ValueError(
            f"scales: expected those of an int8 cache and of no other, got"
            f" {None if scales is None else list(scales.shape)} for {keys.dtype}"
        )
    if scales is not None:
        check_tensor("scales", scales, (2, *shape[:3]))


def check_weight(name: str, weight: torch.Tensor, rows: int, width: int, dtype: torch.dtype) -> int:
    """Check that `weight` is [width] or [M, width] of this dtype and that M divides the rows;
    return M."""
    if weight.dim() == 1:
        check_tensor(name, weight, (width,), dtype)
        return 1
    models = weight.shape[0]
    if models == 0 or rows % models:
        raise ValueError(
            f"{name}: expected [{width}] or [M, {width}], with M models that share {rows} rows"
            f" evenly, got {list(weight.shape)}"
        )
    check_tensor(name, weight, (models, width), dtype)
    return models


def per_row(
    weight: torch.Tensor,  # [width] or [M, width]
    rows: int,
) -> torch.Tensor:  # [R, width]
    """Repeat each model's weights for every row of that model."""
    weight = weight.view(-1, weight.shape[-1])
    return weight.repeat_interleave(rows // len(weight), dim=0)


def addresses(*tensors: torch.Tensor | None) -> list[int]:
    """Return the address of each tensor's first number, 0 for None."""
    return [0 if x is None else x.data_ptr() for x in tensors]


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name by which native kernels know a dtype."""
    return _NAMES[dtype]


def native_cache(keys: torch.Tensor, values: torch.Tensor, scales: torch.Tensor | None) -> Any:
    """Return what native kernels take in place of a layer's caches."""
    parts = (None, None) if scales is None else scales.unbind()
    return native.KvCache(*addresses(keys, values, *parts), dtype_name(keys.dtype))
