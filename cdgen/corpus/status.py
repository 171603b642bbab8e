"""The progress of a corpus: its committed ranges, and the heartbeats of its workers.

Only files are read, so it can be seen from every machine that shares the folder. `status` judges a
heartbeat by its time; `Watch` by whether it changes, so the clocks of two machines may differ. On
the worker's own machine, the absence of its process tells at once that it has ended.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import read_manifest
from cdgen.corpus.model_names import ModelNames
from cdgen.corpus.plan import Plan
from cdgen.corpus.ranges import read_range
from cdgen.corpus.rows import NOTHING, Counts
from cdgen.corpus.shard import Shard
from cdgen.pids import is_running, pid_space
from cdgen.progress import counted, duration
from cdgen.storage import make_folder, write_record

# Workers beat every few seconds, but a step on a slow machine or a paused node may take longer, and
# a client of NFS may see the old file for 60 seconds.
ALIVE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The latest report of a worker."""

    shard: str  # I/N
    time: float  # seconds since 1970
    host: str
    pid: int
    pid_space: str  # what `pid` is unique in; see cdgen/pids.py
    range_index: int  # in progress
    new_tokens: int  # since the worker began
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Status:
    """The progress of a corpus."""

    ranges_done: int
    ranges_total: int
    counts: Counts  # of the committed ranges
    workers: tuple[Heartbeat, ...]
    silence: Mapping[str, float]  # seconds since each shard's worker was last heard of
    gone: frozenset[str]  # shards whose worker has ended and left its heartbeat: it was killed
    eta_seconds: float | None  # None if nothing is left, or if nobody works on it
    finalized: bool
    models: ModelNames | None  # None in corpora of earlier versions
    bad_of_good: str | None  # a BAD made of GOOD, such as layers:8

    def is_alive(self, worker: Heartbeat) -> bool:
        return worker.shard not in self.gone and self.silence[worker.shard] < ALIVE_SECONDS

    def fields(self) -> dict[str, Any]:
        """Return the status in JSON types, as docs/commands/status.md describes it."""
        workers = [
            {
                **asdict(worker),
                "silent_seconds": self.silence[worker.shard],
                "alive": self.is_alive(worker),
                "gone": worker.shard in self.gone,
            }
            for worker in self.workers
        ]
        return {
            "ranges_done": self.ranges_done,
            "ranges_total": self.ranges_total,
            "finalized": self.finalized,
            "counts": self.counts.model_dump(),
            "models": self.models.model_dump() if self.models else None,
            "bad_of_good": self.bad_of_good,
            "workers": workers,
            "eta_seconds": self.eta_seconds,
        }


def beat(
    folder: CorpusFolder, shard: Shard, range_index: int, new_tokens: int, tokens_per_second: float
) -> None:
    """Write this worker's heartbeat for `status`. Call it every few seconds."""
    path = folder.heartbeat_path(shard)
    host, pid, now = socket.gethostname(), os.getpid(), time.time()
    heartbeat = Heartbeat(
        str(shard), now, host, pid, pid_space(), range_index, new_tokens, tokens_per_second
    )
    make_folder(path.parent)
    write_record(path, asdict(heartbeat), durably=False)  # a file server is not asked to wait


def status(out: Path) -> Status:
    """Read the progress of the corpus in `out`; nothing is written.

    Raises UsageError, StorageError or PlanMismatch like `CorpusFolder.plan`.
    """
    return _look(CorpusFolder(out), _CommittedRanges(), _silence_by_clock)


class Watch:
    """The progress of the corpus in `out`, looked at again and again.

    A range's entry is read once, and then only the listing of their folder. A worker counts as
    silent since its heartbeat last changed, by this process's own clock.
    """

    def __init__(self, out: Path) -> None:
        self.folder = CorpusFolder(out)
        self.ranges = _CommittedRanges()
        self.heard: dict[str, tuple[Heartbeat, float]] = {}  # by shard, with monotonic seconds

    def look(self) -> Status:
        """Read the progress. Raises the errors of `status`."""
        return _look(self.folder, self.ranges, self._silence)

    def _silence(self, found: Heartbeat) -> float:
        now = time.monotonic()
        before = self.heard.get(found.shard)
        if before is None and found.host == socket.gethostname():  # one clock
            self.heard[found.shard] = found, now - _silence_by_clock(found)
        elif before is None or before[0] != found:
            self.heard[found.shard] = found, now
        return now - self.heard[found.shard][1]


def _silence_by_clock(found: Heartbeat) -> float:
    return max(0.0, time.time() - found.time)


class _CommittedRanges:
    """The ranges that were committed at the last look, and their counts."""

    def __init__(self) -> None:
        self.indices: set[int] = set()
        self.counts = NOTHING

    def update(self, folder: CorpusFolder) -> None:
        if not folder.ranges.is_dir():
            return
        names = set(os.listdir(folder.ranges))
        for index in range(folder.plan.num_ranges):
            if index in self.indices or folder.range_entry_path(index).name not in names:
                continue
            if entry := read_range(folder, index):
                self.indices.add(index)
                self.counts += entry.counts


def _look(
    folder: CorpusFolder, ranges: _CommittedRanges, silence_of: Callable[[Heartbeat], float]
) -> Status:
    plan = folder.plan
    ranges.update(folder)
    if finalized := folder.is_finalized:  # asked last: finalizing deletes the ranges
        manifest = read_manifest(folder)
        done, counts, models = plan.num_ranges, manifest.totals, manifest.models
    else:
        done, counts, models = len(ranges.indices), ranges.counts, folder.model_names
    workers = () if finalized else _read_heartbeats(folder)
    silence = {worker.shard: silence_of(worker) for worker in workers}
    gone = frozenset(worker.shard for worker in workers if _is_gone(worker))
    bad = plan.bad if ":" in plan.bad else None
    found = Status(
        done, plan.num_ranges, counts, workers, silence, gone, None, finalized, models, bad
    )
    return replace(found, eta_seconds=_seconds_left(found, plan))


def _seconds_left(found: Status, plan: Plan) -> float | None:
    counts = found.counts
    rate = sum(w.tokens_per_second for w in found.workers if found.is_alive(w))
    per_row = counts.new_tokens / counts.rows if counts.rows else plan.max_new_tokens
    left = (plan.num_sequences - counts.rows) * per_row
    return left / rate if left and rate else None


def _is_gone(worker: Heartbeat) -> bool:
    """Return True if the worker's process would be seen from here and is not there."""
    here = (worker.host, worker.pid_space) == (socket.gethostname(), pid_space())
    return here and not is_running(worker.pid)


def _read_heartbeats(folder: CorpusFolder) -> tuple[Heartbeat, ...]:
    names = {field.name for field in fields(Heartbeat)}
    heartbeats = []
    for path in sorted(folder.heartbeats.glob("shard-*.json")):
        try:
            content = json.loads(path.read_bytes())
            heartbeats.append(Heartbeat(**{name: content[name] for name in names}))
        except (OSError, ValueError, KeyError, TypeError):
            # The worker ended just now, on a network it replaced the file while it was read, or
            # its machine lost power.
            continue
    return tuple(heartbeats)


def progress_line(found: Status) -> str:
    """Return the progress in one line."""
    alive = [worker for worker in found.workers if found.is_alive(worker)]
    gone, silent = len(found.gone), len(found.workers) - len(alive) - len(found.gone)
    parts = [f"ranges {found.ranges_done}/{found.ranges_total}"]
    if alive:
        left = "?" if found.eta_seconds is None else duration(found.eta_seconds)
        parts += [
            counted(len(alive), "worker"),
            f"{sum(w.new_tokens for w in alive):,} tokens",
            f"{sum(w.tokens_per_second for w in alive):,.0f} tokens/s",
            f"left {left}",
        ]
    elif found.ranges_done < found.ranges_total:
        parts.append("nobody at work")
    parts += [f"{counted(gone, 'worker')} gone"] if gone else []
    parts += [f"{counted(silent, 'worker')} silent"] if silent else []
    return "  ".join(parts)
