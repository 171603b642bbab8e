"""The pending ranges of a shard, generated and committed one after another."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.prompts import PromptTable
from cdgen.corpus.ranges import commit_range, pending_ranges
from cdgen.corpus.rows import Row
from cdgen.corpus.shard import Shard
from cdgen.corpus.space import require_range_space
from cdgen.corpus.status import beat
from cdgen.device import device_faults
from cdgen.engine.sequences import StepReport
from cdgen.generation.finished_rows import FinishedRows
from cdgen.generation.pace import RangePace
from cdgen.generation.signals import StopSignals
from cdgen.generation.threads import useful_threads
from cdgen.generation.watchdog import Watchdog
from cdgen.progress import Progress, duration

if TYPE_CHECKING:
    from cdgen.engine.slot_engine import SlotEngine
    from cdgen.engine.wave_engine import WaveEngine


class ShardWriter:
    """The work of one process: the ranges of its shard that are not committed yet."""

    def __init__(
        self,
        folder: CorpusFolder,
        shard: Shard,
        pair: Pair,
        table: PromptTable,
        signals: StopSignals,
        watchdog: Watchdog,
        shows_progress: bool,
    ) -> None:
        self.folder, self.shard, self.table = folder, shard, table
        self.plan, self.signals, self.watchdog = folder.plan, signals, watchdog
        self.pending = pending_ranges(folder, shard)
        self.current = 0  # range in progress
        self.pace, self.finishes = RangePace(self.plan.max_new_tokens), False
        self.seconds = 0.0  # spent in `write`
        total = sum(len(self.plan.sequence_ids(index)) for index in self.pending)
        self.progress = Progress(total, self._beat, shows_progress)
        self.finished = FinishedRows(self.plan, pair)

    def write(self, engine: SlotEngine | WaveEngine) -> None:
        """Generate and commit every pending range. Raises Interrupted, StorageError."""
        engine.on_step = self._step
        started = self.progress.meter.started = time.monotonic()
        with (
            self.signals.between_steps(),
            device_faults(),
            useful_threads(engine),
            self.watchdog,
            self.progress,
        ):
            for index in self.pending:
                self._write_range(engine, index)
        self.seconds = time.monotonic() - started

    def _write_range(self, engine: SlotEngine | WaveEngine, index: int) -> None:
        self.current = index
        self.pace.begin(len(self.plan.sequence_ids(index)))
        require_range_space(self.folder)
        commit_range(self.folder, index, self._rows(engine, index))
        self.pace.finish()
        self.watchdog.sign()
        self.signals.check(f"{self._in_progress()} was finished first")

    def _rows(self, engine: SlotEngine | WaveEngine, index: int) -> Iterator[Row]:
        ids = self.plan.sequence_ids(index)
        for row in self.finished.rows(engine, ids, self.table.__getitem__):
            self.progress.meter.sequences += 1
            self.pace.sequence(row.new_tokens)
            yield row

    def _step(self, report: StepReport) -> None:
        self.watchdog.sign()
        self.pace.step(report.drawn)
        if self.signals.seen:
            self._finish_or_drop()
        self.progress.step(report.drawn, report.plausible)

    def _finish_or_drop(self) -> None:
        """After a signal, go on if the range in progress can be finished within the grace; else
        raise Interrupted. That is decided once, and what does not fit after all is dropped when the
        grace is over."""
        time_left, grace = self.signals.deadline - time.monotonic(), self.signals.grace
        if self.finishes:
            if time_left <= 0:
                late = f"was not finished within --grace ({grace:g} s) and is dropped"
                self.signals.check(f"{self._in_progress()} {late}")
            return
        needed = self.pace.seconds_left()
        if needed >= time_left:
            if math.isinf(needed):
                why = "nothing tells yet how long it takes"
            else:
                why = f"about {duration(needed)} left, --grace is {grace:g} s"
            self.signals.check(f"{self._in_progress()} is dropped ({why})")
        self.finishes = True
        print(
            f"cdgen: stopping: {self._in_progress()} will be finished first, which takes about"
            f" {duration(needed)} (a second Ctrl-C ends it at once)",
            file=sys.stderr,
            flush=True,
        )

    def _in_progress(self) -> str:
        """Name the range in progress, among those of several processes."""
        shard = f" of shard {self.shard}" if self.shard.count > 1 else ""
        return f"range {self.current}{shard}"

    def _beat(self, new_tokens: int, rate: float) -> None:
        beat(self.folder, self.shard, self.current, new_tokens, rate)
