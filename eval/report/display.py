"""The progress of scoring on stderr: a line per task, and a bar on a terminal if `rich` is
installed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from cdgen.eval.summary import Summary
from cdgen.progress import LOG_INTERVAL, TerminalDisplay, terminal_console
from cdgen.shown_text import shown


class Display(TerminalDisplay):
    """A view of the checkpoint and task being scored, and of the scores."""

    def __init__(self, checkpoints: int) -> None:
        self.checkpoints, self.begun = checkpoints, 0
        self.name = ""
        if (console := terminal_console()) is not None:
            from rich.progress import Progress

            self.screen = Progress(console=console, transient=True)

    def begin(self, name: str, known: int, tasks: int) -> None:
        """Announce a checkpoint; `known` of its tasks were scored before."""
        self.begun += 1
        self.name = name
        kept = f", {known} of {tasks} tasks scored before" if known else ""
        self._say(f"{name} ({self.begun}/{self.checkpoints}){kept}")

    def task(self, name: str) -> Callable[[int, int], None]:
        """Return the function to call with the tokens done and all tokens of a task."""
        if self.screen:
            from rich.markup import escape

            task = self.screen.add_task(escape(shown(f"{self.name} {name}")), total=None)

            def advance(done: int, total: int) -> None:
                self.screen.update(task, completed=done, total=total, visible=done < total)

            return advance
        due = time.monotonic() + LOG_INTERVAL

        def log(done: int, total: int) -> None:
            nonlocal due
            if (now := time.monotonic()) >= due:
                due = now + LOG_INTERVAL
                self._say(f"  {name} {100 * done / total:.0f} %")

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
