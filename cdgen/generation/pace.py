"""How long a range takes, from the rate at which this process has worked so far."""

from __future__ import annotations

import math
import time


class RangePace:
    """The measured rate of one process, by which the rest of the range in progress is judged.

    Two estimates, of which the longer one counts. By ranges: the last one that was finished took so
    long per sequence, the slots that stand empty at its end included. By tokens: the sequences that
    ended had so many new tokens on average (the most allowed until one has ended), and tokens have
    come at this rate since the range began.
    """

    def __init__(self, max_new_tokens: int) -> None:
        self.max_new_tokens = max_new_tokens
        self.ended = self.ended_tokens = 0  # sequences that ended, and their new tokens
        self.per_sequence: float | None = None  # seconds, in the last finished range
        self.begin(0)

    def begin(self, sequences: int) -> None:
        """Begin a range of that many sequences."""
        self.sequences, self.drawn, self.began = sequences, 0, time.monotonic()

    def step(self, drawn: int) -> None:
        """Count the tokens of one step."""
        self.drawn += drawn

    def sequence(self, new_tokens: int) -> None:
        """Count a sequence that has ended."""
        self.ended += 1
        self.ended_tokens += new_tokens

    def finish(self) -> None:
        """End the range that was begun, once it is committed."""
        self.per_sequence = (time.monotonic() - self.began) / self.sequences

    def seconds_left(self) -> float:
        """Return how long the rest of the range takes; infinity if nothing was measured yet."""
        elapsed = time.monotonic() - self.began
        estimates = []
        if self.per_sequence is not None:
            estimates.append(self.per_sequence * self.sequences - elapsed)
        if self.drawn:
            mean = self.ended_tokens / self.ended if self.ended else self.max_new_tokens
            estimates.append((self.sequences * mean - self.drawn) * elapsed / self.drawn)
        return max(0.0, *estimates) if estimates else math.inf
