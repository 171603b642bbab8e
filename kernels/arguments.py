"""Checks that several ops make of their tensors, and what native kernels take in place of tensors.

Every check raises ValueError that names the argument, what was expected and what it got.

The ops of a decoder layer take float32 on every backend, and bfloat16 and float16 on every backend
but cpu; inside, they compute in fp32. The rows of M models may be stacked, GOOD's before BAD's;
each model has its own weights for its R / M rows.
"""

from __future__ import annotations

import torch

from cdgen.kernels.dispatch import Backend

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
    dtypes = _DTYPES[:1] if backend == "cpu" else _DTYPES
    if x.dtype not in dtypes:
        expected = " or ".join(map(str, dtypes))
        raise ValueError(f"{name}: expected {expected}, got {x.dtype} on backend {backend!r}")


def check_per_sequence(name: str, x: torch.Tensor, rows: int) -> None:
    """Check that `x` is contiguous [B] int64 and that B divides the number of rows."""
    if x.dim() != 1 or len(x) == 0 or rows % len(x):
        raise ValueError(
            f"{name}: expected one number per row [{rows}], or one per sequence, which stacked"
            f" models share; got {list(x.shape)}"
        )
    check_tensor(name, x, (len(x),), torch.int64)


def check_caches(
    keys: torch.Tensor,
    values: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    backend: Backend,
) -> None:
    """Check that both caches have this shape and dtype; float8_e4m3fn is allowed on every backend
    but cpu.

    An fp8 cache has no scales. Rotated keys and values of the measured models are below 32, and
    e4m3 ends at 448; the few percent below 2^-6, where its step stops shrinking, are off by at most
    2^-10, against an rms of 0.15 in the smallest layer. What costs accuracy is that a number has
    four bits: with one scale per layer, the KL from an fp32 cache was the same within a tenth
    (bench/ops/kv_dtype.py measures it).
    """
    fp8 = torch.float8_e4m3fn
    stored = fp8 if keys.dtype is fp8 and backend != "cpu" else dtype
    check_tensor("keys", keys, shape, stored)
    check_tensor("values", values, shape, stored)


def check_weight(name: str, weight: torch.Tensor, x: torch.Tensor, width: int) -> int:
    """Check that `weight` is [width] or [M, width] and that M divides the rows of `x`; return M."""
    if weight.dim() == 1:
        check_tensor(name, weight, (width,), x.dtype)
        return 1
    models = weight.shape[0]
    if models == 0 or len(x) % models:
        raise ValueError(
            f"{name}: expected [{width}] or [M, {width}], with M models that share {len(x)} rows"
            f" evenly, got {list(weight.shape)}"
        )
    check_tensor(name, weight, (models, width), x.dtype)
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
