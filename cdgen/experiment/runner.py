"""Running the stages of an experiment, each as a process of its own.

A process per stage gives what a function call would not: the printed command is the very one that
runs, a crash or a leak stays in its stage, and independent stages run side by side. It costs the
imports of torch and transformers, some seconds a stage (docs/decisions.md).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cdgen.errors import CdgenError, Interrupted, StorageError, one_line
from cdgen.experiment.layout import Layout
from cdgen.experiment.processes import (
    RayProcess,
    StageProcess,
    held_by_stages,
    start_process,
)
from cdgen.experiment.record import StageRecord, read_stages, write_stages
from cdgen.experiment.stages import Stage, shown_command
from cdgen.experiment.view import View
from cdgen.generation.ray.cluster import Share
from cdgen.generation.signals import StopSignals
from cdgen.storage import make_folder

_POLL = 0.2  # seconds
_PATIENCE = 60.0  # seconds that a stage has to end after a signal


@dataclass
class _Running:
    """A stage at work."""

    stage: Stage
    process: StageProcess
    began: float  # seconds, monotonic


@dataclass
class Runner:
    """Runs stages as soon as what they need is done, up to `jobs` at a time."""

    stages: Sequence[Stage]  # in the order in which they are begun; those done already included
    layout: Layout
    jobs: int
    view: View
    share: Share | None = None  # of a node for each stage, on a Ray cluster
    done: set[str] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)  # exit codes
    running: list[_Running] = field(default_factory=list)
    inherited: Sequence[int] = ()  # descriptors that the stages of this machine keep open

    def run(self) -> None:
        """Run what is left. A stage that fails stops only those that need it.

        Raises Interrupted on a signal, after the stages at work have stopped, and the error class
        of the first failure once all others have ended.
        """
        with held_by_stages(self.layout.stages_lock) as descriptor:
            self.inherited = (descriptor,)
            self._run()

    def _run(self) -> None:
        self.done = {stage.name for stage in self.stages if stage.is_done()}
        with (
            StopSignals(kept="finished stages are kept") as signals,
            signals.between_steps(),
            self.view,
        ):
            try:
                while self._begin() or self.running:
                    if signals.seen:
                        raise Interrupted(
                            "stopped by a signal; finished stages are kept, and those at work keep"
                            " what they can. Run the same command again to resume."
                        )
                    self.view.show([r.stage for r in self.running], self.done, self.failed)
                    time.sleep(_POLL)
                    self._collect()
            finally:
                self._stop()
                self.view.finish(self.done, self.failed)
        if self.failed:
            self._raise_failure()

    def _begin(self) -> bool:
        """Begin every stage that can be; return whether there was one."""
        begun = False
        for stage in self.stages:
            if len(self.running) >= self.jobs:
                break
            if self._is_ready(stage):
                self._start(stage)
                begun = True
        return begun

    def _is_ready(self, stage: Stage) -> bool:
        busy = {running.stage.name for running in self.running}
        known = stage.name in self.done or stage.name in self.failed or stage.name in busy
        return not known and self.done.issuperset(stage.needs)

    def _start(self, stage: Stage) -> None:
        log = self.layout.log(stage.name)
        make_folder(log.parent)
        with log.open("ab") as file:
            file.write(f"$ {shown_command(stage)}\n".encode())
            file.flush()
            if stage.action is not None:  # no other command does it
                began = time.monotonic()
                code = _act(stage.action, file)
                self._finished(stage, code, time.monotonic() - began)
                return
        process: StageProcess
        if self.share is None:
            environment = thread_settings(self.jobs)
            process = start_process(stage.command, log, environment, self.inherited)
        else:
            process = RayProcess(stage.command, log, self.share)
        self.view.began(stage)
        self.running.append(_Running(stage, process, time.monotonic()))

    def _collect(self) -> None:
        """Note the stages that have ended."""
        for one in [one for one in self.running if one.process.poll() is not None]:
            self.running.remove(one)
            self._finished(one.stage, one.process.returncode, time.monotonic() - one.began)

    def _finished(self, stage: Stage, code: int, seconds: float) -> None:
        if code == 0:
            stage.date_result()
        if code == 0 and not stage.is_done():
            code = CdgenError.exit_code  # it says that it succeeded, but its result is not there
        if code == 0:
            self.done.add(stage.name)
        else:
            self.failed[stage.name] = code
        self._record(stage, "failed" if code else "done", seconds)
        self.view.ended(stage, code, seconds)

    def _record(self, stage: Stage, state: str, seconds: float) -> None:
        records = read_stages(self.layout.out)
        before = records.get(stage.name)
        records[stage.name] = StageRecord.model_validate(
            {
                "name": stage.name,
                "command": shown_command(stage),
                "state": state,
                "seconds": round(seconds + (before.seconds if before else 0.0), 1),
                "attempts": 1 + (before.attempts if before else 0),
            }
        )
        write_stages(records, self.layout.out)

    def _stop(self) -> None:
        """Stop the stages at work as Ctrl-C would, so that each keeps what it can."""
        for one in self.running:
            one.process.send_signal(signal.SIGINT)
        until = time.monotonic() + _PATIENCE
        for one in self.running:
            try:
                one.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
            self._record(one.stage, "stopped", time.monotonic() - one.began)
        self.running.clear()

    def _raise_failure(self) -> None:
        """Raise the error class of the first stage that failed."""
        first, code = next(iter(self.failed.items()))
        left = len(self.stages) - len(self.done) - len(self.failed)
        waiting = f"; {left} that need them were not begun" if left else ""
        advice = "Remove the cause"
        if first.startswith("pair-gap-"):
            advice = f"Here, lower {first.removeprefix('pair-').replace('-', ':', 1)} in the recipe"
        kinds = {kind.exit_code: kind for kind in CdgenError.__subclasses__()}
        raise kinds.get(code, CdgenError)(
            f"{len(self.failed)} of {len(self.stages)} stages failed ({', '.join(self.failed)})"
            f"{waiting}. {first}: {last_line(self.layout.log(first))} (see"
            f" {self.layout.log(first)}). {advice}, then run the same command again."
        )


def _act(action: Callable[[], None], log: BinaryIO) -> int:
    """Do what a stage is; return its exit code, with what went wrong in its log."""
    try:
        action()
    except (CdgenError, OSError) as error:
        log.write(f"cdgen: {one_line(error)}\n".encode())
        log.flush()
        return error.exit_code if isinstance(error, CdgenError) else StorageError.exit_code
    return 0


def thread_settings(jobs: int) -> Mapping[str, str]:
    """Return the environment that divides the cores among stages that run side by side.

    The user's own OMP_NUM_THREADS wins.
    """
    if jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(threads_of_a_job(jobs))}


def threads_of_a_job(jobs: int) -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else max(1, len(os.sched_getaffinity(0)) // jobs)


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
