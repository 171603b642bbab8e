"""Several worker processes on one machine, each with its own GPU and its own shard."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import Watch, progress_line
from cdgen.errors import CdgenError, Interrupted, UsageError, report
from cdgen.generation.config import GenerateConfig
from cdgen.generation.one_process import write_shard
from cdgen.generation.signals import StopSignals, end_with_parent
from cdgen.progress import LOG_INTERVAL, counted
from cdgen.shown_text import protect_terminal

_POLL = 0.2  # seconds


def worker_count(config: GenerateConfig) -> int:
    """Return the number of workers; `auto` is one per GPU, or one on a CPU.

    Raises UsageError for more workers than GPUs.
    """
    gpus = 0
    if config.device != "cpu":
        import torch

        gpus = torch.cuda.device_count()
    if config.workers == "auto":
        return max(1, gpus)
    if gpus and config.workers > gpus:
        raise UsageError(f"--workers: expected at most one per GPU, {gpus}, got {config.workers}")
    return config.workers


def run_workers(config: GenerateConfig, count: int, signals: StopSignals) -> None:
    """Make the ranges of `config.shard` with `count` processes.

    A worker that fails reports its own error, and one that is killed is reported here; the others
    continue, and their commits are kept. Once all have ended, raises the error class of the first
    failure, or Interrupted. A signal is passed on: each worker finishes its range if that fits into
    the grace, and then this raises Interrupted. A second Ctrl-C ends the workers too.
    """
    own = Shard.parse(config.shard)
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    signals.at_second_sigint = partial(_kill, processes)
    try:
        for number in range(count):
            shard = Shard(own.index + own.count * number, own.count * count)
            alone = config.model_copy(update={"shard": str(shard), "workers": 1})
            process = context.Process(target=_work, args=(alone, number), name=str(shard))
            with signals.between_steps(), _sigint_held():
                process.start()
                processes.append(process)
            signals.check()
            if number == 0 and not _has_begun(config, shard, process, signals):
                break
        _watch(config, processes, signals)
    finally:
        with signals.between_steps():  # another signal must not end the wait
            for process in processes:
                process.terminate()  # has no effect on one that has ended
            for process in processes:
                process.join()
    _raise_failure([process.exitcode or 0 for process in processes])


def _raise_failure(exit_codes: list[int]) -> None:
    """Raise the error class of the first worker that met an error which has to be mended, or else
    Interrupted if some were stopped or killed. Do nothing if all succeeded."""
    failed = [code for code in exit_codes if code]
    if not failed:
        return
    kinds = {kind.exit_code: kind for kind in CdgenError.__subclasses__()}
    error = next((code for code in failed if code > 0 and code != Interrupted.exit_code), None)
    kind = Interrupted if error is None else kinds.get(error, CdgenError)
    advice = "Run" if error is None else "Remove the cause, then run"
    raise kind(
        f"{len(failed)} of {counted(len(exit_codes), 'worker')} ended early (see above); committed"
        f" ranges are kept. {advice} the same command again to resume."
    )


def _kill(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.kill()


def _has_begun(
    config: GenerateConfig, shard: Shard, process: SpawnProcess, signals: StopSignals
) -> bool:
    """Wait until the first worker generates; return whether it succeeded so far.

    It makes the plan and loads the models alone, so an error in them is reported once.
    """
    heartbeat = CorpusFolder(config.out).heartbeat_path(shard)
    while process.is_alive() and not heartbeat.exists():
        signals.check()
        time.sleep(_POLL)
    return process.is_alive() or process.exitcode == 0


@contextmanager
def _sigint_held() -> Iterator[None]:
    """Keep Ctrl-C from a process that is started inside the block until it can handle it: it would
    print a traceback while it imports."""
    resource_tracker.ensure_running()  # otherwise `start` does it, and releases all signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(config: GenerateConfig, number: int) -> None:
    end_with_parent(signal.SIGKILL)  # nobody would tell this process to stop
    if (own := visible_device(number, config.device)) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = own
    protect_terminal()
    try:
        # A terminal sends Ctrl-C to all processes, and one of them says how to resume.
        with StopSignals(config.grace, kept="") as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            write_shard(config, signals, shows_progress=False)
    except Exception as error:
        sys.exit(report(error))


def visible_device(number: int, device: str) -> str | None:
    """Return what CUDA_VISIBLE_DEVICES is for worker `number`; None leaves it unchanged.

    If the variable lists devices already, it is one of them.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu" or listed == "":
        return None
    return str(number) if listed is None else listed.split(",")[number]


def _watch(config: GenerateConfig, processes: list[SpawnProcess], signals: StopSignals) -> None:
    """Wait until all workers have ended, say which one was killed, and print a line of progress now
    and then."""
    watch = Watch(config.out)
    due = time.monotonic() + LOG_INTERVAL
    alive = processes
    while alive:
        signals.check()
        time.sleep(_POLL)
        alive, before = [process for process in alive if process.is_alive()], alive
        for process in before:
            _say_if_killed(process)
        if time.monotonic() >= due and watch.folder.has_plan:
            due = time.monotonic() + LOG_INTERVAL
            found = watch.look()
            if any(map(found.is_alive, found.workers)):  # otherwise they only load, or have ended
                print(progress_line(found), file=sys.stderr, flush=True)


def _say_if_killed(process: SpawnProcess) -> None:
    """Report a worker that a signal has killed: it could say nothing itself."""
    if (process.exitcode or 0) >= 0:
        return
    number = -(process.exitcode or 0)
    why = " (often by the system, when memory runs out)" if number == signal.SIGKILL else ""
    print(
        f"cdgen: the worker of shard {process.name} was killed by signal {number}{why}; what it had"
        " not committed is left to do",
        file=sys.stderr,
        flush=True,
    )
