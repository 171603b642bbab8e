"""The progress of an experiment: one live view on a terminal, otherwise a line per event."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from cdgen.experiment.stages import Stage
from cdgen.progress import TerminalDisplay, duration, terminal_console
from cdgen.shown_text import shown

_INTERVAL = 60.0  # seconds between lines about a stage at work, without a terminal
_WAITING_SHOWN = 5


class View(TerminalDisplay):
    """What is done, at work (with the last line of its log), waiting and failed."""

    def __init__(self, stages: Sequence[Stage], last_line: Callable[[Stage], str]) -> None:
        self.stages, self.last_line = stages, last_line
        self.began_at: dict[str, float] = {}  # seconds, monotonic
        self.due = 0.0
        if (console := terminal_console()) is not None:
            from rich.live import Live

            # Without a thread of its own: processes are started while it is shown.
            self.screen = Live(console=console, auto_refresh=False)

    def began(self, stage: Stage) -> None:
        self.began_at[stage.name] = time.monotonic()
        self._say(f"{stage.name}: begun")

    def ended(self, stage: Stage, code: int, seconds: float) -> None:
        if code:
            self._say(f"{stage.name}: FAILED (exit code {code}): {self.last_line(stage)}")
        else:
            self._say(f"{stage.name}: done in {duration(seconds)}")

    def show(self, running: Sequence[Stage], done: Set[str], failed: Mapping[str, int]) -> None:
        """Bring the view up to date. Cheap to call often."""
        now = time.monotonic()
        if now < self.due:
            return
        if self.screen:
            self.due = now + 0.5
            self.screen.update(self._table(running, done, failed, now), refresh=True)
            return
        if self.due:
            for stage in running:
                spent = duration(now - self.began_at[stage.name])
                self._say(f"{stage.name}: {spent}  {self.last_line(stage)}")
        self.due = now + _INTERVAL

    def finish(self, done: Set[str], failed: Mapping[str, int]) -> None:
        """Leave the final state on the screen."""
        if self.screen:
            self.screen.update(self._table([], done, failed, time.monotonic()), refresh=True)

    def _table(
        self, running: Sequence[Stage], done: Set[str], failed: Mapping[str, int], now: float
    ) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        busy = {stage.name for stage in running}
        for stage in running:
            spent = duration(now - self.began_at[stage.name])
            # As text: brackets in a log are no markup.
            table.add_row("running", stage.name, spent, Text(shown(self.last_line(stage))))
        for name, code in failed.items():
            table.add_row("failed", name, f"exit code {code}", "")
        waiting = [s.name for s in self.stages if s.name not in {*done, *failed, *busy}]
        more = f" and {len(waiting) - _WAITING_SHOWN} more" * (len(waiting) > _WAITING_SHOWN)
        table.add_row("waiting", str(len(waiting)), "", ", ".join(waiting[:_WAITING_SHOWN]) + more)
        table.add_row("done", f"{len(done)} of {len(self.stages)}", "", "")
        return table

    def _say(self, line: str) -> None:
        if self.screen:
            self.screen.console.print(shown(line), highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)
