"""The workers of a run on a Ray cluster: starting them where there is room, and losing them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan, PromptPlan, require_same
from cdgen.differences import differences
from cdgen.errors import Interrupted, PlanMismatch, one_line
from cdgen.generation.config import GenerateConfig
from cdgen.generation.ray.cluster import Node, Share, nodes
from cdgen.generation.ray.range_worker import Drawn, ModelFiles, Order, RangeWorker, stored_files
from cdgen.generation.signals import StopSignals

_POLL = 0.2  # seconds
TRIES = 3  # workers that a range, or the start of one, may cost
_PATIENCE = 120.0  # seconds without a node that has room
# What a plan records of the machine: two nodes that differ in it would write other bytes.
_OF_THE_MACHINE = ("cdgen_version", "libraries", "device", "backend")


class WorkerLost(Exception):
    """A worker that died, or whose device failed. Another one may do its work."""


@dataclass(eq=False)
class Worker:
    """An actor on a node, and the call that it is at."""

    node: Node
    actor: Any
    call: Any  # reference to the result of `load` or `write`; None if it waits for a range
    index: int | None = None  # the range in progress
    question: Any = None  # reference to the result of `drawn`
    drawn: Drawn = field(default_factory=Drawn)  # at the last answer


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass
class Workers:
    """The workers that are alive, and what new ones load."""

    config: GenerateConfig  # with absolute paths, and the sizes of the corpus if it has a plan
    share: Share
    pair: Pair
    prompts: PromptPlan
    plan: Plan | None  # None: the first worker makes it
    alive: list[Worker] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # nodes, and what they would do otherwise
    failed_starts: int = 0  # in a row
    say: Callable[[str], None] = _print
    files: ModelFiles | None = None  # once a node turned out not to have the models
    deadline: float = field(default_factory=lambda: time.monotonic() + _PATIENCE)

    def first_plan(self, signals: StopSignals) -> Plan:
        """Start one worker and return the plan of the corpus, which it makes if that is new.

        Raises PlanMismatch if the corpus has another plan, Interrupted, and the errors of a worker.
        """
        while True:
            self.hire(1)
            for worker in self.ended():
                signals.check()
                if (made := self.loaded(worker)) is not None:
                    self.plan = made
                    return made

    def hire(self, most: int) -> None:
        """Start workers where there is room until there are `most`, on every node one first.

        Raises PlanMismatch if every node would write other bytes, Interrupted if there was no node
        for some minutes.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        able = [node for node in nodes() if node.room(self.share)]
        usable = [node for node in able if node.id not in self.refused]
        self._require_some(able, usable)
        busy = Counter(worker.node.id for worker in self.alive)
        places = [(n, node) for node in usable for n in range(busy[node.id], node.room(self.share))]
        places.sort(key=lambda place: place[0])
        for _, node in places[: max(0, most - len(self.alive))]:
            handle = (
                _actor()
                .options(
                    num_cpus=self.share.cpus,
                    num_gpus=self.share.gpus,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
                )
                .remote()
            )
            call = handle.load.remote(self._order(), self.files)
            self.alive.append(Worker(node, handle, call))

    def _order(self) -> Order:
        bad = self.pair.bad.sha256 if self.pair.bad else None
        return Order(
            self.config, self.prompts, self.pair.good.sha256, bad, self.plan, self.share.cpus
        )

    def _require_some(self, able: list[Node], usable: list[Node]) -> None:
        if usable or self.alive:
            self.deadline = time.monotonic() + _PATIENCE
        elif able:
            raise PlanMismatch(
                f"no node of the cluster can make this corpus: of {able[0].name},"
                f" {self.refused[able[0].id]}. Use nodes of one kind, or choose another --out."
            )
        elif time.monotonic() > self.deadline:
            raise Interrupted(
                f"no node of the cluster has had room for a worker for {_PATIENCE:.0f} s; committed"
                " ranges are kept. Run the same command again to resume."
            )

    def ended(self) -> list[Worker]:
        """Wait a moment for calls that end; return their workers."""
        import ray

        calls = {worker.call: worker for worker in self.alive if worker.call is not None}
        if not calls:
            time.sleep(_POLL)
            return []
        ended, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_POLL)
        return [calls[call] for call in ended]

    def result(self, worker: Worker) -> Any:
        """Return the result of a call that has ended; the worker then waits.

        Raises WorkerLost, which says why, and the error that the worker met unless another worker
        may do better.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            found = ray.get(worker.call)
        except RayTaskError as error:
            if not isinstance(error.cause, Interrupted):  # which is a GPU that failed
                raise error.cause from error
            self._lose(worker, one_line(error.cause, 300))
        except RayError as error:
            self._lose(worker, cause_of_loss(error))
        worker.call = None
        return found

    def _lose(self, worker: Worker, why: str) -> None:
        self.end(worker)
        raise WorkerLost(why)

    def end(self, worker: Worker) -> None:
        import ray

        ray.kill(worker.actor)
        self.alive.remove(worker)

    def loaded(self, worker: Worker) -> Plan | None:
        """Return the plan that a worker has loaded, or None if it is no use (yet).

        Raises PlanMismatch if it was asked for another corpus, Interrupted if workers keep dying.
        """
        try:
            made: Plan | None = self.result(worker)
        except WorkerLost as lost:
            self._count_failed_start(worker, str(lost))
            return None
        except ImportError as error:  # the plan names the versions of packages, too
            self._leave_out(worker, f"it lacks a package: {one_line(error)}")
            return None
        if made is None:  # the models are not on that node
            self.files = self.files or stored_files(self.pair)
            worker.call = worker.actor.load.remote(self._order(), self.files)
            return None
        self.failed_starts = 0
        if self.plan is None or made == self.plan:
            return made
        self._refuse(worker, self.plan, made)
        return None

    def _count_failed_start(self, worker: Worker, why: str) -> None:
        self.failed_starts += is_alive(worker.node)
        if self.failed_starts >= TRIES:
            raise Interrupted(
                f"{TRIES} workers in a row were lost before they had loaded the models, the last"
                f" one by: {why}. Remove the cause, then run the same command again."
            )
        self.say(
            f"a worker on {worker.node.name} was lost while it loaded the models ({why}): another"
            " one is started"
        )

    def _refuse(self, worker: Worker, plan: Plan, made: Plan) -> None:
        """Leave a node out that would write other bytes. Raises PlanMismatch if more than the
        machine differs."""
        machine = {name: getattr(plan, name) for name in _OF_THE_MACHINE}
        require_same(plan, made.model_copy(update=machine), self.config.out)
        changed = "; ".join(differences(plan.fields, made.fields))
        self._leave_out(worker, f"it would write other bytes: {changed}")

    def _leave_out(self, worker: Worker, why: str) -> None:
        self.refused[worker.node.id] = why
        self.say(f"{worker.node.name} is left out, {why}")
        self.end(worker)


@cache
def _actor() -> Any:
    import ray

    return ray.remote(concurrency_groups={"look": 1})(RangeWorker)


def is_alive(node: Node) -> bool:
    return any(node.id == other.id for other in nodes())


def cause_of_loss(error: Exception) -> str:
    """Return in a few words what Ray says at length, with guesses, of a worker that is lost."""
    said = one_line(error)
    if "node has died" in said or "node was terminated" in said:
        return "its node has died"
    if "unavailable" in said:
        return "it cannot be reached any more"
    if "running low on memory" in said:
        return "its node ran out of memory"
    if "process has died" in said:
        return "its process was killed, often because memory ran out, or has crashed"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first_sentence = lines[-1].partition(". ")[0] if lines else type(error).__name__
    return first_sentence[:200].rstrip(".")
