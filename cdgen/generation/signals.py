"""Stopping on SIGINT, SIGTERM or SIGUSR1: at once, or between two steps of the engine."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    SIGINT calls `at_second_sigint` and ends the process with exit code 130. The messages end with
    `kept` and with how to resume, unless another process says so: then `kept` is empty.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, grace: float = 0.0, kept: str = "committed ranges are kept") -> None:
        self.grace = grace  # seconds from the first signal on, in which work may be finished
        self.advice = f"; {kept}. Run the same command again to resume." if kept else ""
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
            leave(130, f"cdgen: ended by a second Ctrl-C{self.advice}\n" if self.advice else "")
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

    def check(self, fate: str = "") -> None:
        """End the block if a signal has arrived; `fate` says what became of the range in
        progress."""
        if self.seen:
            raise _Stop(f"stopped by a signal{fate and '; '}{fate}{self.advice}")


def end_with_parent(number: signal.Signals) -> None:
    """Let Linux send this process a signal as soon as its parent has ended, however that ended."""
    if _libc is not None:
        _libc.prctl(_DIE_WITH_PARENT, number)


def leave(code: int, said: str = "") -> NoReturn:
    """End the process at once, wherever its threads are, with these last words, and give the
    terminal its cursor back. `print` may be what was interrupted, so it is not called."""
    with suppress(OSError):  # nobody reads stderr any more
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # a live view hides it
        os.write(2, said.encode())
    os._exit(code)
