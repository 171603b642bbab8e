"""Where a corpus stands: what its workers say of themselves, and what is committed."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cdgen.corpus.folder import STATE, heartbeat_path, is_finalized, read_plan
from cdgen.corpus.ranges import read_manifest, read_range
from cdgen.corpus.rows import NOTHING, Counts
from cdgen.corpus.shard import Shard
from cdgen.storage import canonical_json, make_folder, write_atomic

# A worker beats every few seconds; a step on a slow machine or a paused node may take longer.
ALIVE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker says about itself."""

    shard: str  # I/N
    time: float  # seconds since 1970
    host: str
    pid: int
    range_index: int  # being made
    new_tokens: int  # since the worker began
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Status:
    """Where a corpus stands."""

    ranges_done: int
    ranges_total: int
    counts: Counts  # of the committed ranges
    workers: tuple[Heartbeat, ...]
    now: float  # seconds since 1970
    eta_seconds: float | None  # None when nothing is left, or nobody works on it
    finalized: bool

    def is_alive(self, worker: Heartbeat) -> bool:
        return self.now - worker.time < ALIVE_SECONDS


def beat(
    out: Path, shard: Shard, range_index: int, new_tokens: int, tokens_per_second: float
) -> None:
    """Tell `status` that this worker lives. Call it every few seconds."""
    path = heartbeat_path(out, shard)
    host, pid, now = socket.gethostname(), os.getpid(), time.time()
    heartbeat = Heartbeat(str(shard), now, host, pid, range_index, new_tokens, tokens_per_second)
    make_folder(path.parent)
    write_atomic(path, canonical_json(asdict(heartbeat)))


def status(out: Path) -> Status:
    """Read-only, at any time. Raises UsageError, StorageError or PlanMismatch as `read_plan`."""
    plan = read_plan(out)
    finalized = is_finalized(out)
    if finalized:
        done, counts = plan.num_ranges, read_manifest(out).totals
    else:
        done, counts = 0, NOTHING
        for index in range(plan.num_ranges):
            if entry := read_range(out, plan, index):
                done, counts = done + 1, counts + entry.counts
    now = time.time()
    workers = () if finalized else _read_heartbeats(out)  # nobody works on it any more
    rate = sum(w.tokens_per_second for w in workers if now - w.time < ALIVE_SECONDS)
    per_row = counts.new_tokens / counts.rows if counts.rows else plan.max_new_tokens
    left = (plan.num_sequences - counts.rows) * per_row
    eta = left / rate if left and rate else None
    return Status(done, plan.num_ranges, counts, workers, now, eta, finalized)


def _read_heartbeats(out: Path) -> tuple[Heartbeat, ...]:
    names = {field.name for field in fields(Heartbeat)}
    heartbeats = []
    for path in sorted((out / STATE / "heartbeats").glob("shard-*.json")):
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:  # the worker has just ended
            continue
        heartbeats.append(Heartbeat(**{name: content[name] for name in names}))
    return tuple(heartbeats)
