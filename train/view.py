"""The progress of a training run on stderr: one live line on a terminal if `rich` is installed,
otherwise a line per logged interval."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from cdgen.progress import TerminalDisplay, duration, memory_held, sparkline, terminal_console

_REFRESH = 0.5  # seconds between two changes of the live line


@dataclass(frozen=True)
class Pace:
    """How far a run is."""

    step: int
    steps: int
    tokens_per_second: float
    eta_seconds: float


class TrainingView(TerminalDisplay):
    """The step, the loss and how it went, the rate, the memory and the time left.

    Only the first of several processes shows anything.
    """

    def __init__(self, shows: bool = True) -> None:
        self.shows = shows
        self.losses: list[float] = []
        self.due = 0.0
        if shows and (console := terminal_console()) is not None:
            from rich.live import Live

            self.screen = Live(console=console, refresh_per_second=4)

    def step(self, pace: Pace) -> None:
        """Bring the live line up to date; cheap to call after every step."""
        if self.screen and (now := time.monotonic()) >= self.due:
            self.due = now + _REFRESH
            self.screen.update(self._line(pace))

    def logged(self, pace: Pace, loss: float, learning_rate: float) -> None:
        """Show the mean loss of an interval."""
        self.losses.append(loss)
        if self.screen:
            self.screen.update(self._line(pace))
        elif self.shows:
            print(
                f"step {pace.step}/{pace.steps}: loss {loss:.4f}, learning rate"
                f" {learning_rate:.3g}, {pace.tokens_per_second:,.0f} tokens/s,"
                f" left {duration(pace.eta_seconds)}{memory_held()}",
                file=sys.stderr,
                flush=True,
            )

    def _line(self, pace: Pace) -> Any:
        from rich.text import Text

        loss = f"{self.losses[-1]:.4f} {sparkline(self.losses)}" if self.losses else "?"
        return Text(
            f"step {pace.step}/{pace.steps}  loss {loss}  {pace.tokens_per_second:,.0f} tokens/s"
            f"  left {duration(pace.eta_seconds)}{memory_held()}"
        )
