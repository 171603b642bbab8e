"""`cdgen status`: how far a corpus is, once or until it is complete."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdgen.errors import UsageError
from cdgen.progress import LOG_INTERVAL, TerminalDisplay, duration, terminal_console

if TYPE_CHECKING:
    from cdgen.corpus.status import Heartbeat, Status

LOOK_INTERVAL = 2.0  # seconds between two looks at the folder, on a terminal
_CTRL_C = 130


def status(
    out: Annotated[Path, typer.Argument(help="Corpus folder.")],
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Look again and again until the corpus is complete."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
) -> None:
    """Show how far a corpus is and which processes are writing it.

    Any machine that sees the folder can ask. With --watch, a worker counts as alive as long as its
    heartbeat changes, so the clocks of two machines may differ.
    """
    from cdgen.corpus.status import status as corpus_status

    if as_json and watch:
        raise UsageError("--json does not go with --watch: call it again and again without")
    found = _last_look(out) if watch else corpus_status(out)
    if as_json:
        typer.echo(json.dumps(found.fields(), indent=2))
        return
    for line in status_lines(found):
        typer.echo(line)
    if any(worker.host != socket.gethostname() for worker in found.workers):
        typer.echo("Silence is told by the clocks of several machines here; --watch uses one.")


def _last_look(out: Path) -> Status:
    """Show the progress until the corpus is complete; Ctrl-C ends the command without a word."""
    from cdgen.corpus.status import Watch

    watch = Watch(out)
    try:
        with _View() as view:
            while not (found := watch.look()).finalized:
                view.show(found)
                time.sleep(view.interval)
    except KeyboardInterrupt:
        sys.exit(_CTRL_C)
    return found


class _View(TerminalDisplay):
    """All lines of the status on a terminal, kept up to date; elsewhere a line now and then."""

    def __init__(self) -> None:
        self.interval = LOG_INTERVAL
        if (console := terminal_console()) is not None:
            from rich.live import Live

            self.interval = LOOK_INTERVAL
            self.screen = Live(console=console, auto_refresh=False, transient=True)

    def show(self, found: Status) -> None:
        from cdgen.corpus.status import progress_line

        if not self.screen:
            print(progress_line(found), flush=True)
            return
        from rich.text import Text

        self.screen.update(Text("\n".join(status_lines(found))), refresh=True)


def status_lines(found: Status) -> list[str]:
    """Return the status as lines of text."""
    counts = found.counts
    reasons = (f"{reason} {number:,}" for reason, number in counts.finish_reasons.items())
    lines = [
        f"ranges {found.ranges_done}/{found.ranges_total}"
        f"{', finalized' if found.finalized else ''}",
        f"sequences {counts.rows:,}  tokens {counts.tokens:,} ({counts.new_tokens:,} new)"
        f"  words {counts.words:,}",
        f"ended by {', '.join(reasons)}",
    ]
    if found.models:
        bad = found.models.bad or found.bad_of_good
        lines.insert(0, f"GOOD {found.models.good}{f'  BAD {bad}' if bad else ''}")
    for worker in found.workers:
        who = f"shard {worker.shard} on {worker.host} (pid {worker.pid})"
        lines.append(f"{who}: {_state(found, worker)}")
    if found.eta_seconds is not None:
        lines.append(f"time left {duration(found.eta_seconds)}")
    return lines


def _state(found: Status, worker: Heartbeat) -> str:
    at = f"range {worker.range_index}"
    if found.is_alive(worker):
        return f"at work, {at}, {worker.tokens_per_second:,.0f} tokens/s"
    if worker.shard in found.gone:
        return f"gone, {at}: it ended without finishing; run the same command again to resume"
    return (
        f"silent for {found.silence[worker.shard]:.0f} s, {at}: it was killed, hangs, or is cut off"
        " from this folder; once it has ended, run the same command again to resume"
    )
