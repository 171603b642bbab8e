"""Native calls of a decoder step, recorded once and repeated in one call.

Between two calls from Python lie some ten microseconds, in which the other threads fall asleep, and
waking them costs more than many a kernel takes (docs/decisions.md, 2026-11-28). A recording is to
native calls what a CUDA graph is to launches: the addresses stay the same, the numbers change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import local
from typing import Any

import torch

from cdgen.kernels.arguments import check_tensor
from cdgen.kernels.dispatch import native, threads


class Recorded:
    """A function of tensors on the CPU that computes by native ops alone. Its first call records
    them, later ones repeat them on other numbers."""

    def __init__(self, compute: Callable[..., torch.Tensor]) -> None:
        self._compute = compute
        self._calls: Any = None
        self._inputs: list[torch.Tensor] = []
        self._out = torch.empty(0)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return what the function returns. Raises ValueError if an input has another shape or
        dtype than in the first call."""
        if self._calls is None:
            self._record(inputs)
        else:
            self._take(inputs)
            self._calls.repeat(threads())
        return self._out.clone()

    def beside(
        self, other: Recorded, inputs: Sequence[torch.Tensor], other_inputs: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what this function and the other one return, computed at the same time on one
        thread each, once both are recorded."""
        if self._calls is None or other._calls is None:
            return self(*inputs), other(*other_inputs)
        self._take(inputs)
        other._take(other_inputs)
        self._calls.repeat_beside(other._calls)
        return self._out.clone(), other._out.clone()

    def _take(self, inputs: Sequence[torch.Tensor]) -> None:
        for i, (own, x) in enumerate(zip(self._inputs, inputs, strict=True)):
            check_tensor(f"input {i}", x, tuple(own.shape), own.dtype)
            own.copy_(x)

    def _record(self, inputs: Sequence[torch.Tensor]) -> None:
        with torch.inference_mode(False):  # tensors that can be written in every mode
            self._inputs = [torch.empty(x.shape, dtype=x.dtype) for x in inputs]
        self._take(inputs)
        calls = native.Recording()
        self._memory = _thread.memory = _Memory()  # the calls hold only addresses
        calls.begin()
        try:
            self._out = self._compute(*self._inputs)
        finally:
            calls.end()
            _thread.memory = None
        self._calls = calls


class _Memory:
    """What the ops of a recording write to. It takes turns: two sets of tensors, of which each is
    overwritten in the turn after the next one."""

    def __init__(self) -> None:
        self._sets: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
        self._free: list[torch.Tensor] = []
        self._kept: list[torch.Tensor] = []

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        for i, x in enumerate(self._free):
            if x.shape == shape and x.dtype is dtype:
                return self._free.pop(i)
        self._sets[0].append(torch.empty(shape, dtype=dtype))
        return self._sets[0][-1]

    def next_turn(self) -> None:
        self._sets = self._sets[::-1]
        self._free = list(self._sets[0])

    def keep(self, x: torch.Tensor) -> None:
        for own in self._sets:
            own[:] = [y for y in own if y is not x]
        self._kept.append(x)


_thread = local()


def _memory() -> _Memory | None:
    return getattr(_thread, "memory", None)


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Return memory on the CPU for what an op computes: new, or the recording's."""
    memory = _memory()
    return torch.empty(shape, dtype=dtype) if memory is None else memory.take(shape, dtype)


def next_layer() -> None:
    """Let a recording overwrite what ops wrote before the last call of this function, unless it is
    kept. Without a recording, nothing is overwritten."""
    if memory := _memory():
        memory.next_turn()


def kept(x: torch.Tensor) -> torch.Tensor:
    """Return `x`, the result of an op, which a recording is not to overwrite."""
    if memory := _memory():
        memory.keep(x)
    return x


def cat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return contiguous tensors of a CPU or a GPU one after the other, as `torch.cat` does, which
    no recording would repeat."""
    if _memory() is None:
        return torch.cat(list(parts))
    out = empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
    for own, part in zip(out.split([len(part) for part in parts]), parts, strict=True):
        native.copy_bytes(part.data_ptr(), own.data_ptr(), part.nbytes)
    return out
