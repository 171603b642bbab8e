"""A run in memory: the rows of a plan, one after another, and nothing on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan, PromptPlan
from cdgen.corpus.prompts import padded_ids
from cdgen.corpus.rows import Row
from cdgen.engine.sequences import StepReport
from cdgen.generation.build_engine import Engine
from cdgen.generation.config import SequenceConfig
from cdgen.generation.finished_rows import FinishedRows
from cdgen.generation.new_plan import sequence_plan, with_sizes
from cdgen.generation.threads import useful_threads
from cdgen.progress import Progress


def memory_plan(config: SequenceConfig, pair: Pair, prompts: Sequence[list[int]]) -> Plan:
    """Return the plan that `cdgen generate` would make for these prompts, of which each has at most
    `config.prompt_tokens` ids. Raises UsageError."""
    table = b"".join(padded_ids(ids, config.prompt_tokens) for ids in prompts)
    sha256 = hashlib.sha256(table).hexdigest()
    source = PromptPlan(
        source_sha256=sha256,  # the ids are all that was given
        tokens_sha256=sha256,
        count=len(prompts),
        prompt_tokens=config.prompt_tokens,
    )
    plan = sequence_plan(config, pair, source, "jsonl")  # which needs no package; none is written
    return with_sizes(plan, pair, config.slots, "auto")


@dataclass
class MemoryRun:
    """A plan, its prompts, and the engine that writes its sequences."""

    plan: Plan
    pair: Pair
    prompts: Sequence[list[int]]  # token ids
    engine: Engine

    def rows(self, count: int | None = None, progress: bool = True) -> Iterator[Row]:
        """Yield the rows of the first `count` sequences, by default of all, in the order of their
        ids. A row that is finished early waits for those before it.

        Sequences are generated range by range as on disk, because a range decides which of them go
        through a model of transformers together.
        """
        count = self.plan.num_sequences if count is None else min(count, self.plan.num_sequences)
        shown = Progress(count, lambda tokens, rate: None, progress)

        def show(report: StepReport) -> None:
            shown.step(report.drawn, report.plausible)

        self.engine.on_step = show
        finished = FinishedRows(self.plan, self.pair)
        with shown:
            for index in range(-(-count // self.plan.range_size)):
                ids = [i for i in self.plan.sequence_ids(index) if i < count]
                rows = finished.rows(self.engine, ids, self.prompts.__getitem__)
                for row in _in_order(_each_with_useful_threads(self.engine, rows), ids):
                    yield row
                    shown.meter.sequences += 1


def _each_with_useful_threads(engine: Engine, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield `rows`; the caller, between two of them, keeps its own number of threads."""
    while True:
        with useful_threads(engine):
            row = next(rows, None)
        if row is None:
            return
        yield row


def _in_order(rows: Iterator[Row], ids: Sequence[int]) -> Iterator[Row]:
    """Yield `rows`, which come in any order, in that of `ids`."""
    waiting: dict[int, Row] = {}
    for id_ in ids:
        while id_ not in waiting:
            row = next(rows)
            waiting[row.sequence_id] = row
        yield waiting.pop(id_)
