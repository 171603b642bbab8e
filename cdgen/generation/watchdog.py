"""A watchdog for a run that hangs: it writes every thread's stack and ends the process."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from typing import Self

from cdgen.errors import Interrupted
from cdgen.generation.signals import leave

# A step may take this many times as long as the longest one before it, however small the limit is:
# a slow machine with a big model is no hang.
SLOWER = 10
_POLLS = 20  # within the limit
_LONGEST_POLL = 5.0  # seconds


class Watchdog:
    """Ends the process with exit code 75 if no `sign` of life comes for `limit` seconds.

    A thread of its own counts, so it works while the main thread hangs in native code, which
    releases Python's lock. It counts its own polls, not the clock: the time that a process is
    stopped (SIGSTOP, a frozen machine) is not silence. A limit of 0 switches it off.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.signs = 0
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self.limit:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def sign(self) -> None:
        """Note a sign of life."""
        self.signs += 1

    def _watch(self) -> None:
        poll = min(_LONGEST_POLL, self.limit / _POLLS)
        seen, silence, longest, now = self.signs, 0.0, 0.0, time.monotonic()
        while not self._ended.wait(poll):
            before, now = now, time.monotonic()
            silence += min(now - before, 2 * poll)
            if self.signs != seen:
                seen, longest, silence = self.signs, max(longest, silence), 0.0
            elif silence > max(self.limit, SLOWER * longest):
                self._end(silence)

    def _end(self, silence: float) -> None:
        os.write(2, b"cdgen: the stacks of all threads:\n")
        faulthandler.dump_traceback(2, all_threads=True)
        said = (
            f"cdgen: no token came for {silence:.0f} s (--watchdog {self.limit:g}), so this process"
            " ends itself; committed ranges are kept. Run the same command again to resume; if it"
            " hangs again, report the stacks above.\n"
        )
        leave(Interrupted.exit_code, said)
