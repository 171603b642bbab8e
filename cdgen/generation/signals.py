"""Stopping on SIGINT, SIGTERM or SIGUSR1: at once, or between two steps of the engine."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Self

from cdgen.errors import Interrupted

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class _Stop(BaseException):
    """A signal, on its way to the end of `with StopSignals()`. Like KeyboardInterrupt it is no
    Exception: code that turns errors into others must not take it for one."""


class StopSignals:
    """Handlers that turn SIGINT, SIGTERM and SIGUSR1 into Interrupted, raised by the `with`.

    The block ends at once, or inside `between_steps` when `check` is called after a step. A second
    SIGINT calls `at_second_sigint` and ends the process with exit code 130.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, grace: float = 0.0) -> None:
        self.grace = grace  # seconds from the first signal on, in which work may be finished
        self.seen: list[int] = []
        self.deadline = 0.0  # monotonic seconds: the first signal plus the grace
        self.deferred = False
        self.at_second_sigint: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self._handle) for number in self.NUMBERS}
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, _Stop):
            raise Interrupted(str(error)) from error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in self.seen:
            self.at_second_sigint()
            leave(130)
        if not self.seen:
            self.deadline = time.monotonic() + self.grace
        self.seen.append(number)
        if not self.deferred:
            self.check()

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Defer signals inside the block until the next `check`."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False

    def check(self, rest: str = "the one in progress is not") -> None:
        """End the block if a signal has arrived; `rest` says what becomes of the range in
        progress."""
        if self.seen:
            raise _Stop(
                f"stopped by a signal; committed ranges are kept, {rest}."
                " Run the same command again to resume."
            )


def end_with_parent(number: signal.Signals) -> None:
    """Let Linux send this process a signal as soon as its parent has ended, however that ended."""
    if _libc is not None:
        _libc.prctl(_DIE_WITH_PARENT, number)


def leave(code: int) -> NoReturn:
    """End the process at once, wherever its threads are, and give the terminal its cursor back."""
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a live view hides it
    os._exit(code)
