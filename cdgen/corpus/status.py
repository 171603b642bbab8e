"""The progress of a corpus: its committed ranges, and the heartbeats of its workers."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import read_manifest
from cdgen.corpus.model_names import ModelNames
from cdgen.corpus.ranges import read_range
from cdgen.corpus.rows import NOTHING, Counts
from cdgen.corpus.shard import Shard
from cdgen.storage import make_folder, write_record

# Workers beat every few seconds, but a step on a slow machine or a paused node may take longer.
ALIVE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The latest report of a worker."""

    shard: str  # I/N
    time: float  # seconds since 1970
    host: str
    pid: int
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
    now: float  # seconds since 1970
    eta_seconds: float | None  # None if nothing is left, or if nobody works on it
    finalized: bool
    models: ModelNames | None  # None in corpora of earlier versions
    bad_of_good: str | None  # a BAD made of GOOD, such as layers:8

    def is_alive(self, worker: Heartbeat) -> bool:
        return self.now - worker.time < ALIVE_SECONDS


def beat(
    folder: CorpusFolder, shard: Shard, range_index: int, new_tokens: int, tokens_per_second: float
) -> None:
    """Write this worker's heartbeat for `status`. Call it every few seconds."""
    path = folder.heartbeat_path(shard)
    host, pid, now = socket.gethostname(), os.getpid(), time.time()
    heartbeat = Heartbeat(str(shard), now, host, pid, range_index, new_tokens, tokens_per_second)
    make_folder(path.parent)
    write_record(path, asdict(heartbeat))


def status(out: Path) -> Status:
    """Read the progress of the corpus in `out`; nothing is written.

    Raises UsageError, StorageError or PlanMismatch like `CorpusFolder.plan`.
    """
    folder = CorpusFolder(out)
    plan, finalized = folder.plan, folder.is_finalized
    if finalized:
        manifest = read_manifest(folder)
        done, counts, models = plan.num_ranges, manifest.totals, manifest.models
    else:
        done, counts, models = 0, NOTHING, folder.model_names
        for index in range(plan.num_ranges):
            if entry := read_range(folder, index):
                done, counts = done + 1, counts + entry.counts
    now = time.time()
    workers = () if finalized else _read_heartbeats(folder)
    rate = sum(w.tokens_per_second for w in workers if now - w.time < ALIVE_SECONDS)
    per_row = counts.new_tokens / counts.rows if counts.rows else plan.max_new_tokens
    left = (plan.num_sequences - counts.rows) * per_row
    eta = left / rate if left and rate else None
    bad = plan.bad if ":" in plan.bad else None
    return Status(done, plan.num_ranges, counts, workers, now, eta, finalized, models, bad)


def _read_heartbeats(folder: CorpusFolder) -> tuple[Heartbeat, ...]:
    names = {field.name for field in fields(Heartbeat)}
    heartbeats = []
    for path in sorted(folder.heartbeats.glob("shard-*.json")):
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:  # the worker ended just now
            continue
        heartbeats.append(Heartbeat(**{name: content[name] for name in names}))
    return tuple(heartbeats)
