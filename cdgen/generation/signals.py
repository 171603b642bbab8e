"""Stopping on SIGINT, SIGTERM or SIGUSR1, between two steps of the engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from cdgen.errors import Interrupted


class StopSignals:
    """Handlers that turn SIGINT, SIGTERM and SIGUSR1 into Interrupted.

    It is raised at once, or inside `between_steps` when `check` is called after a step. A second
    SIGINT ends the process with exit code 130.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.deferred = False

    def __enter__(self) -> Self:
        self.before = {number: signal.signal(number, self._handle) for number in self.NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in self.seen:
            os._exit(130)
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

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived."""
        if self.seen:
            raise Interrupted(
                "stopped by a signal; committed ranges are kept, the one in progress is not."
                " Run the same command again to resume."
            )
