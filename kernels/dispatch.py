"""The choice of the backend that computes an op: by device, or by name. Nothing falls back."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, NoReturn, get_args

import torch

__all__ = ["Backend", "choose_backend", "interpreting", "native", "threads"]


class NotBuilt:
    """Stand-in for native kernels that were not compiled: a GPU can do without them."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ImportError("the native CPU kernels are not built here; run: pip install -e .")


native: Any
try:
    # Imported after torch: the extension has no OpenMP runtime and takes the one that torch loaded.
    native = import_module("cdgen.kernels._cpu")
except ModuleNotFoundError:
    native = NotBuilt()

Backend = Literal["reference", "cpu", "triton"]


def interpreting() -> bool:
    """Return True if Triton kernels run under Triton's interpreter, which needs no GPU."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


def choose_backend(device: torch.device, backend: str | None = None) -> Backend:
    """Return the backend for tensors on `device`. Raises ValueError if the one named cannot run."""
    if backend is None:
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"backend: expected tensors on cpu or cuda, got device {device}")
        return "triton" if device.type == "cuda" else "cpu"
    if backend == "reference":
        return "reference"
    if backend == "cpu":
        if device.type != "cpu":
            raise ValueError(f"backend 'cpu' needs tensors on the CPU, got device {device}")
        return "cpu"
    if backend == "triton":
        if device.type == "cuda" or interpreting():
            return "triton"
        raise ValueError(
            f"backend 'triton' needs tensors on a CUDA device, got device {device};"
            " set TRITON_INTERPRET=1 to run it in Triton's interpreter"
        )
    raise ValueError(f"backend: expected one of {get_args(Backend)} or None, got {backend!r}")


def threads() -> int:
    """Return how many threads a native kernel may use: torch's own setting."""
    return torch.get_num_threads()
