"""Which backend computes an op: chosen by device, or asked for by name. Nothing falls back."""

from __future__ import annotations

from typing import Literal, get_args

import torch

# After torch: the extension has no OpenMP runtime of its own and takes the one torch has loaded.
from cdgen.kernels import _cpu as native  # type: ignore[attr-defined]

__all__ = ["Backend", "check", "choose_backend", "native", "threads"]

Backend = Literal["reference", "cpu", "triton"]


def choose_backend(device: torch.device, backend: str | None = None) -> Backend:
    """The backend for tensors on `device`; ValueError where the one named cannot run there."""
    if backend is None:
        if device.type == "cpu":
            return "cpu"
        raise ValueError(f"backend: no kernel for device {device.type!r} yet; expected cpu")
    if backend == "reference":
        return "reference"
    if backend == "cpu":
        if device.type != "cpu":
            raise ValueError(f"backend 'cpu' needs tensors on the CPU, got device {device}")
        return "cpu"
    if backend == "triton":
        raise ValueError("backend 'triton': no Triton kernel for this op yet; use 'cpu'")
    raise ValueError(f"backend: expected one of {get_args(Backend)} or None, got {backend!r}")


def threads() -> int:
    """How many threads a native kernel may use: torch's own setting."""
    return torch.get_num_threads()


def check(
    name: str,
    x: torch.Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Raises ValueError unless `x` is a contiguous tensor of that shape and dtype: the kernels are
    handed bare addresses."""
    if x.shape == shape and x.dtype is dtype and x.is_contiguous():
        return
    raise ValueError(
        f"{name}: expected contiguous {list(shape)} {dtype},"
        f" got {list(x.shape)} {x.dtype} with strides {x.stride()}"
    )
