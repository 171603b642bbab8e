"""`cdgen generate --ray`: the driver, which gives ranges to workers and commits what they return.

The driver alone reads the prompts and writes OUT, so the nodes need no folder in common. A range
whose worker or node is lost goes to another worker. What a worker returns depends on the plan and
the range only, so the corpus has the bytes that one process writes.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.plan import PromptPlan
from cdgen.corpus.prompts import PromptTable
from cdgen.corpus.ranges import EncodedRange, commit_encoded, pending_ranges
from cdgen.corpus.shard import Shard
from cdgen.corpus.space import require_plan_space, require_range_space
from cdgen.corpus.status import beat
from cdgen.device import device_type
from cdgen.errors import Interrupted
from cdgen.generation.config import GenerateConfig
from cdgen.generation.inputs import model_names, open_models, open_prompts
from cdgen.generation.one_process import Outcome
from cdgen.generation.ray.cluster import share_of
from cdgen.generation.ray.range_worker import Drawn, with_absolute_models
from cdgen.generation.ray.workers import TRIES, Worker, WorkerLost, Workers, is_alive
from cdgen.generation.signals import StopSignals
from cdgen.progress import Progress, counted

_LOOK_INTERVAL = 2.0  # seconds between looks at the nodes and at what the workers have drawn


def write_by_ray(config: GenerateConfig, signals: StopSignals, shows_progress: bool) -> Outcome:
    """Write the ranges of `config.shard` that are not committed yet, on the cluster to which this
    process is connected; begin the corpus if it is new.

    Raises the errors of cdgen/errors.py; ranges committed before one are kept.
    """
    folder, shard = CorpusFolder(config.out), Shard.parse(config.shard)
    pair = open_models(config)
    with folder.set_up():
        table = open_prompts(config, pair, folder.prompts)
        workers = workers_for(config, folder, pair, table.plan)
        with ended_on_error(workers):
            plan = workers.first_plan(signals)
            require_plan_space(folder, plan)
            folder.open_plan(plan, model_names(pair))
    with ended_on_error(workers), folder.hold_shard(shard):
        driver = RayDriver(folder, shard, table, workers, signals, shows_progress)
        driver.write()
    meter = driver.progress.meter
    return Outcome(plan, meter.sequences, meter.tokens, driver.seconds)


@contextmanager
def ended_on_error(workers: Workers) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for worker in list(workers.alive):
            workers.end(worker)
        raise


def workers_for(
    config: GenerateConfig, folder: CorpusFolder, pair: Pair, prompts: PromptPlan
) -> Workers:
    """Return the workers of a corpus, none of them started. Raises UsageError if none can be."""
    plan = folder.plan if folder.has_plan else None
    device: str = config.device
    if plan is not None and device == "auto":
        device = device_type(plan.device)
    share = share_of(config.ray_cpus, device)
    chosen: dict[str, Any] = {"device": "cuda" if share.gpus else "cpu"}
    if plan is not None:  # what `auto` means in a folder that the nodes may not see
        sizes = ("slots", "range_size")
        chosen |= {name: getattr(plan, name) for name in sizes if getattr(config, name) == "auto"}
    settings = with_absolute_models(config).model_copy(update=chosen)
    return Workers(settings, share, pair, prompts, plan)


class RayDriver:
    """Gives the pending ranges of a shard to workers and commits what comes back."""

    def __init__(
        self,
        folder: CorpusFolder,
        shard: Shard,
        table: PromptTable,
        workers: Workers,
        signals: StopSignals,
        shows_progress: bool,
    ) -> None:
        self.folder, self.shard, self.table = folder, shard, table
        self.plan, self.workers, self.signals = folder.plan, workers, signals
        self.queue = deque(pending_ranges(folder, shard))
        self.crashes: Counter[int] = Counter()  # of workers, by the range that they were at
        self.told = False  # that a signal has come
        self.seconds = 0.0  # spent in `write`
        total = sum(len(self.plan.sequence_ids(index)) for index in self.queue)
        self.progress = Progress(total, self._beat, shows_progress)
        workers.say = self.progress.say

    def write(self) -> None:
        """Commit every pending range, and end the workers.

        Raises Interrupted, StorageError, and the errors of a worker.
        """
        started = self.progress.meter.started = time.monotonic()
        with self.signals.between_steps(), self.progress:
            for worker in list(self.workers.alive):
                self._give(worker)
            try:
                self._run()
            except BaseException as stop:
                if self.signals.seen or isinstance(stop, Interrupted):
                    self._commit_what_is_done()
                raise
        self.seconds = time.monotonic() - started

    def _run(self) -> None:
        look = 0.0
        while (self.queue and not self.signals.seen) or self._writing():
            if self.signals.seen:
                if time.monotonic() >= self.signals.deadline:
                    break
                self._say_stopping()
            if time.monotonic() >= look:
                look = time.monotonic() + _LOOK_INTERVAL
                self._hire()
                self._look()
            for worker in self.workers.ended():
                self._ended(worker)
        if self.queue or self._writing():
            late = f"what was not finished within --grace ({self.signals.grace:g} s) is dropped"
            self.signals.check(
                late if self._writing() else "the ranges in progress were finished first"
            )
        for worker in list(self.workers.alive):  # they have only just loaded the models
            self.workers.end(worker)

    def _say_stopping(self) -> None:
        if self.told:
            return
        self.told = True
        self.progress.say(
            f"cdgen: stopping: up to {self.signals.grace:g} s (--grace) are left for"
            f" {counted(len(self._writing()), 'range')} in progress (a second Ctrl-C ends it at"
            " once)"
        )

    def _writing(self) -> list[Worker]:
        return [worker for worker in self.workers.alive if worker.index is not None]

    def _hire(self) -> None:
        if self.signals.seen:
            return
        most, limit = len(self.queue) + len(self._writing()), self.workers.config.workers
        self.workers.hire(most if limit == "auto" else min(limit, most))

    def _ended(self, worker: Worker) -> None:
        """Take the result of a call that has ended, and give its worker the next range."""
        if worker.index is None:
            if self.workers.loaded(worker) is not None:
                self._give(worker)
            return
        index = worker.index
        try:
            encoded, drawn = self.workers.result(worker)
        except WorkerLost as lost:
            self._lost(index, worker, str(lost))
            return
        self._count(worker, drawn)
        self._give(worker)  # before the commit, so that it does not wait for the disk
        self._commit(index, encoded)

    def _give(self, worker: Worker) -> None:
        """Let a worker make the next range, or end it if none is left or a signal has come."""
        if not self.queue or self.signals.seen:
            self.workers.end(worker)
            return
        require_range_space(self.folder)
        index = worker.index = self.queue.popleft()
        ids = self.plan.sequence_ids(index)
        first, last = self.plan.prompt_id(ids.start), self.plan.prompt_id(ids.stop - 1)
        prompts = [self.table[prompt] for prompt in range(first, last + 1)]
        worker.call = worker.actor.write.remote(index, prompts)

    def _lost(self, index: int, worker: Worker, why: str) -> None:
        """Put a range back. Raises Interrupted if it keeps killing workers on nodes that live."""
        self.crashes[index] += is_alive(worker.node)
        if self.crashes[index] >= TRIES:
            raise Interrupted(
                f"range {index} has cost {TRIES} workers, the last one by: {why}; committed ranges"
                " are kept. Remove the cause, then run the same command again to resume."
            )
        self.queue.appendleft(index)
        then = "is dropped" if self.signals.seen else "goes to another worker"
        self.workers.say(f"a worker on {worker.node.name} was lost ({why}): range {index} {then}")

    def _commit(self, index: int, encoded: EncodedRange) -> None:
        commit_encoded(self.folder, index, encoded)
        self.progress.meter.sequences += encoded.counts.rows

    def _commit_what_is_done(self) -> None:
        """Commit the ranges that are finished but were not fetched yet."""
        for worker in self.workers.ended():
            if worker.index is not None:
                with suppress(WorkerLost):
                    self._commit(worker.index, self.workers.result(worker)[0])

    def _look(self) -> None:
        """Count what the workers have drawn since the last look, and ask again."""
        import ray
        from ray.exceptions import RayError

        asked = {w.question: w for w in self.workers.alive if w.question is not None}
        answered, _ = (
            ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ([], [])
        )
        for question in answered:
            asked[question].question = None
            with suppress(RayError):  # the worker is lost, as its other call will say
                self._count(asked[question], ray.get(question))
        for worker in self._writing():
            if worker.question is None:
                worker.question = worker.actor.drawn.options(concurrency_group="look").remote()
        at_work = self._writing()
        places = len({worker.node.id for worker in at_work})
        self.progress.note = f"  {counted(len(at_work), 'worker')} on {counted(places, 'node')}"
        self.progress.step(0, 0)

    def _count(self, worker: Worker, drawn: Drawn) -> None:
        """Count what a worker has drawn since its last answer."""
        before, worker.drawn = worker.drawn, drawn
        self.progress.step(drawn.tokens - before.tokens, drawn.plausible - before.plausible)

    def _beat(self, new_tokens: int, rate: float) -> None:
        at_work = [worker.index for worker in self._writing() if worker.index is not None]
        beat(self.folder, self.shard, min(at_work, default=0), new_tokens, rate)
