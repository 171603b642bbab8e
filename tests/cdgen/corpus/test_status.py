"""The progress of a corpus: committed ranges, heartbeats, the time left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from small_corpus import WHOLE, begin, fill, make_rows

from cdgen.corpus.finalize import finalize
from cdgen.corpus.ranges import commit_range
from cdgen.corpus.rows import NOTHING
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import beat, status
from cdgen.corpus.verify import verify
from cdgen.errors import UsageError


def test_status_counts_ranges_and_workers(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin(out)
    assert status(out).counts == NOTHING
    assert status(out).eta_seconds is None
    committed = [commit_range(folder, index, make_rows(folder.plan, index)) for index in (0, 1)]
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    beat(folder, Shard(1, 2), range_index=3, new_tokens=50, tokens_per_second=4.0)
    monkeypatch.setattr(time, "time", lambda: 1300.0)
    beat(folder, Shard(0, 2), range_index=2, new_tokens=80, tokens_per_second=6.0)
    found = status(out)
    assert (found.ranges_done, found.ranges_total, found.finalized) == (2, 5, False)
    assert found.counts == committed[0].counts + committed[1].counts
    alive, silent = found.workers
    assert (alive.shard, alive.range_index, alive.new_tokens) == ("0/2", 2, 80)
    assert [found.is_alive(worker) for worker in (alive, silent)] == [True, False]
    per_row = found.counts.new_tokens / 16
    assert found.eta_seconds == pytest.approx(24 * per_row / 6.0)
    fill(folder)
    assert status(out).eta_seconds is None
    finalize(out)
    done = status(out)
    assert (done.ranges_done, done.finalized, done.counts.rows) == (5, True, 40)


def test_a_worker_that_ends_takes_its_heartbeat_along(out: Path) -> None:
    folder = begin(out)
    with folder.hold_shard(WHOLE):
        beat(folder, WHOLE, 0, 1, 1.0)
        assert folder.heartbeat_path(WHOLE).exists()
    assert status(out).workers == ()


def test_status_of_nothing(tmp_path: Path) -> None:
    for read in (status, verify, finalize):
        with pytest.raises(UsageError, match="no cdgen corpus"):
            read(tmp_path)
        assert list(tmp_path.iterdir()) == []
