"""The progress of scoring on stderr: a line per task, and a bar on a terminal if `rich` is
installed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from cdgen.eval.summary import Summary
from cdgen.progress import (
    LOG_INTERVAL,
    TerminalDisplay,
    duration,
    memory_held,
    terminal_console,
)
from cdgen.shown_text import shown


class Display(TerminalDisplay):
    """A view of the checkpoint and task being scored, and of the scores."""

    def __init__(self, checkpoints: int) -> None:
        self.checkpoints, self.begun = checkpoints, 0
        self.name = ""
        if (console := terminal_console()) is not None:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            shown_facts = TextColumn("{task.fields[facts]}", markup=False)
            self.screen = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                shown_facts,
                console=console,
                transient=True,
            )

    def begin(self, name: str, known: int, tasks: int) -> None:
        """Announce a checkpoint; `known` of its tasks were scored before."""
        self.begun += 1
        self.name = name
        kept = f", {known} of {tasks} tasks scored before" if known else ""
        self._say(f"{name} ({self.begun}/{self.checkpoints}){kept}")

    def task(self, name: str, unit: str = "tokens") -> Callable[[int, int], None]:
        """Return the function to call with the units done and all units of a task."""
        began = time.monotonic()
        if self.screen:
            from rich.markup import escape

            task = self.screen.add_task(escape(shown(f"{self.name} {name}")), total=None, facts="")

            def advance(done: int, total: int) -> None:
                facts = _facts(done, total, unit, time.monotonic() - began)
                self.screen.update(
                    task, completed=done, total=total, visible=done < total, facts=facts
                )

            return advance
        due = began + LOG_INTERVAL

        def log(done: int, total: int) -> None:
            nonlocal due
            if (now := time.monotonic()) >= due:
                due = now + LOG_INTERVAL
                facts = _facts(done, total, unit, now - began)
                self._say(f"  {name} {100 * done / total:.0f} %  {facts}".rstrip())

        return log

    def finished(self, task: str, summary: Summary) -> None:
        """Print a task's scores."""
        scores = "  ".join(
            f"{name} {found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
            for name, found in summary.metrics.items()
        )
        notes = [f"{summary.ties} ties"] * (summary.ties > 0)
        notes += [f"{summary.cut} texts cut to the context length"] * (summary.cut > 0)
        self._say(f"  {task}  {scores}" + (f"  ({', '.join(notes)})" if notes else ""))

    def _say(self, line: str) -> None:
        if self.screen:
            self.screen.console.print(shown(line), highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)


def _facts(done: int, total: int, unit: str, seconds: float) -> str:
    """Return the rate, the time left by it, and the memory held."""
    if not done:
        return ""
    rate = done / max(seconds, 1e-9)
    return f"{rate:,.0f} {unit}/s  left {duration((total - done) / rate)}{memory_held()}"
