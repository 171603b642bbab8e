"""Show the progress of a corpus: one live line on a terminal if `rich` is installed, otherwise a
new line every LOG_INTERVAL seconds, so that a log file stays readable. The views of training and
evaluation are made of the same parts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

from cdgen.shown_text import bare, protect_terminal

if TYPE_CHECKING:
    from rich.console import Console

LOG_INTERVAL = 10.0  # seconds between lines without a terminal
BEAT_INTERVAL = 5.0  # seconds between heartbeats
RATE_WINDOW = 30.0  # seconds over which the rate is measured
_BLOCKS = "▁▂▃▄▅▆▇█"


def terminal_console() -> Console | None:
    """Return a console on stderr, or None if that is no terminal or `rich` is not installed."""
    if not (sys.stderr.isatty() and find_spec("rich")):
        return None
    from rich.console import Console

    return Console(file=bare(sys.stderr))


class TerminalDisplay:
    """A view that is on the terminal within a `with`."""

    screen: Any = None  # of rich; None without a terminal

    def __enter__(self) -> Self:
        if self.screen:
            self.screen.start()
            protect_terminal()  # what others print now passes through the screen, which obeys it
        return self

    def __exit__(self, *raised: object) -> None:
        if self.screen:
            self.screen.stop()


@dataclass
class Meter:
    """The sequences and tokens that this process has drawn so far."""

    sequences: int = 0
    tokens: int = 0
    plausible: int = 0  # plausible tokens, summed over all tokens drawn
    started: float = field(default_factory=time.monotonic)  # seconds
    samples: list[tuple[float, int]] = field(default_factory=list)  # (time, tokens) in the window

    def rate(self, now: float) -> float:
        """Return tokens per second over the last RATE_WINDOW seconds."""
        self.samples = [s for s in self.samples if now - s[0] < RATE_WINDOW] + [(now, self.tokens)]
        since, before = self.samples[0]
        if now - since < 1:
            since, before = self.started, 0
        return (self.tokens - before) / max(now - since, 1e-9)


class Progress(TerminalDisplay):
    """A line with the rate, the time left and the mean number of plausible tokens, kept up to date.

    It also calls `beat` with the tokens drawn and the rate, every BEAT_INTERVAL seconds.
    """

    def __init__(self, total: int, beat: Callable[[int, float], None], shows: bool = True) -> None:
        self.total, self.beat, self.shows = total, beat, shows
        self.meter = Meter()
        self.note = ""  # appended to the line
        self.due = self.next_beat = 0.0
        if shows and (console := terminal_console()) is not None:
            from rich.live import Live

            self.screen = Live(console=console, refresh_per_second=4)

    def __exit__(self, *raised: object) -> None:
        if self.screen:
            self._show(time.monotonic())  # the final numbers stay on the screen
        super().__exit__(*raised)

    def step(self, drawn: int, plausible: int) -> None:
        """Count one step of the engine: `drawn` tokens, `plausible` candidates for them."""
        self.meter.tokens += drawn
        self.meter.plausible += plausible
        now = time.monotonic()
        if now >= self.due:
            self.due = now + (0.5 if self.screen else LOG_INTERVAL)
            self._show(now)
        if now >= self.next_beat:
            self.next_beat = now + BEAT_INTERVAL
            self.beat(self.meter.tokens, self.meter.rate(now))

    def say(self, line: str) -> None:
        """Print a line above the progress."""
        if self.screen:
            self.screen.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _show(self, now: float) -> None:
        meter = self.meter
        if not meter.tokens or not self.shows:
            return
        line = (
            f"{meter.sequences}/{self.total} sequences  {meter.tokens:,} tokens"
            f"  {meter.rate(now):,.0f} tokens/s  plausible {meter.plausible / meter.tokens:.1f}"
            f"  left {self._left(now)}{memory_held()}{self.note}"
        )
        if self.screen:
            self.screen.update(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def _left(self, now: float) -> str:
        if not self.meter.sequences:
            return "?"
        elapsed = now - self.meter.started
        return duration(elapsed / self.meter.sequences * (self.total - self.meter.sequences))


def memory_held() -> str:
    """Return the memory that this process holds, as the end of a line: the GPU's if it uses one;
    nothing where it cannot be told."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return f"  GPU memory {torch.cuda.memory_reserved() / 1e9:.1f} GB"
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return ""
    resident = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return f"  memory {resident / 1e9:.1f} GB"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Draw the last values as a line of `width` characters at most, the largest as a whole block.

    More values than `width` are averaged in groups of equal size, the first of them shorter.
    """
    if not values:
        return ""
    group = -(-len(values) // width)
    ends = range(len(values), 0, -group)
    means = [fmean(values[max(0, end - group) : end]) for end in reversed(ends)]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in means)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 worker, 2 workers."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Format a duration as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
