"""The pending ranges of a shard, generated and committed one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.prompts import PromptTable
from cdgen.corpus.ranges import check_space, commit_range, pending_ranges
from cdgen.corpus.rows import Row
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import beat
from cdgen.device import device_faults
from cdgen.engine.sequences import Request, StepReport
from cdgen.generation.finished_rows import FinishedRows
from cdgen.generation.signals import StopSignals
from cdgen.progress import Progress

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
        shows_progress: bool,
    ) -> None:
        self.folder, self.shard, self.table = folder, shard, table
        self.plan, self.signals = folder.plan, signals
        self.pending = pending_ranges(folder, shard)
        self.current = 0  # range in progress
        self.seconds = 0.0  # spent in `write`
        total = sum(len(self.plan.sequence_ids(index)) for index in self.pending)
        self.progress = Progress(total, self._beat, shows_progress)
        self.finished = FinishedRows(self.plan, pair)

    def write(self, engine: SlotEngine | WaveEngine) -> None:
        """Generate and commit every pending range. Raises Interrupted, StorageError."""
        engine.on_step = self._step
        started = self.progress.meter.started = time.monotonic()
        with self.signals.between_steps(), device_faults(), useful_threads(engine), self.progress:
            for index in self.pending:
                self.current = index
                check_space(self.folder)
                commit_range(self.folder, index, self._rows(engine, index))
        self.seconds = time.monotonic() - started

    def _rows(self, engine: SlotEngine | WaveEngine, index: int) -> Iterator[Row]:
        requests = (
            Request(i, self.table[self.plan.prompt_id(i)]) for i in self.plan.sequence_ids(index)
        )
        for sequence in engine.generate(requests):
            self.progress.meter.sequences += 1
            yield self.finished.row(sequence)

    def _step(self, report: StepReport) -> None:
        self.signals.check()
        self.progress.step(report.drawn, report.plausible)

    def _beat(self, new_tokens: int, rate: float) -> None:
        beat(self.folder, self.shard, self.current, new_tokens, rate)


@contextmanager
def useful_threads(engine: SlotEngine | WaveEngine) -> Iterator[None]:
    """Use one thread for a tiny model of the lean decoders, whose bits do not depend on threads."""
    import torch

    before = torch.get_num_threads()
    if engine.is_tiny:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
