"""The progress of a corpus: committed ranges, heartbeats, the time left."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from small_corpus import WHOLE, begin, change_heartbeat, ended_process, fill, make_rows

from cdgen.corpus.finalize import finalize
from cdgen.corpus.ranges import commit_range, read_range
from cdgen.corpus.rows import NOTHING
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import Watch, beat, progress_line, status
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


# ---- from another machine ------------------------------------------------------------------------


class Clocks:
    """The clocks of this machine, which a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: 1_000_000.0 + self.now)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def beat_elsewhere(out: Path, clock: float, new_tokens: int) -> None:
    """Leave the heartbeat of a worker on another machine, whose clock shows `clock`."""
    beat(begin(out), WHOLE, range_index=0, new_tokens=new_tokens, tokens_per_second=2.0)
    change_heartbeat(out, WHOLE, host="node-7", time=clock)


@pytest.mark.parametrize("clock", [0.0, 1_005_000.0, 9e9], ids=["behind", "equal", "ahead"])
def test_a_watch_sees_whether_a_heartbeat_changes_whatever_its_clock(
    out: Path, clocks: Clocks, clock: float
) -> None:
    watch = Watch(out)
    beat_elsewhere(out, clock, new_tokens=1)
    seen = []
    for seconds, beats in ((0, 0), (100, 0), (15, 1), (119, 0), (2, 0), (1000, 0), (5, 1)):
        clocks.now += seconds
        if beats:
            beat_elsewhere(out, clock + seconds, new_tokens=int(clocks.now))
        found = watch.look()
        seen.append(found.is_alive(found.workers[0]))
    assert seen == [True, True, True, True, False, False, True]


def test_a_watch_on_the_workers_own_machine_knows_a_dead_one_at_once(
    out: Path, clocks: Clocks
) -> None:
    beat(begin(out), WHOLE, 0, 1, 1.0)
    assert status(out).workers[0].host == socket.gethostname()
    clocks.now += 500
    found = Watch(out).look()
    assert not found.is_alive(found.workers[0])


def test_a_watch_reads_a_range_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cdgen.corpus import status as module

    folder, read = begin(out), []

    def counted(folder: object, index: int) -> object:
        read.append(index)
        return read_range(folder, index)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_range", counted)
    watch = Watch(out)
    assert watch.look().ranges_done == 0
    for index in (3, 0):
        commit_range(folder, index, make_rows(folder.plan, index))
        assert watch.look().counts == status(out).counts
    assert read == [3, 3, 0, 0, 3]  # the watch, then `status`, which remembers nothing
    fill(folder)
    assert (watch.look().ranges_done, watch.look().finalized) == (5, False)
    finalize(out)
    assert watch.look() == status(out)


# ---- a worker that was killed --------------------------------------------------------------------


def test_a_killed_worker_of_this_machine_is_gone_at_once(out: Path) -> None:
    folder = begin(out)
    beat(folder, Shard(0, 2), 0, 100, 4.0)
    beat(folder, Shard(1, 2), 1, 100, 4.0)
    both = status(out)
    change_heartbeat(out, Shard(1, 2), pid=ended_process())
    for found in (status(out), Watch(out).look()):
        assert found.gone == {"1/2"}
        assert list(map(found.is_alive, found.workers)) == [True, False]
        assert both.eta_seconds and found.eta_seconds == 2 * both.eta_seconds


@pytest.mark.parametrize("elsewhere", [{"host": "node-7"}, {"pid_space": "another container"}])
def test_a_process_of_another_machine_cannot_be_asked_for(
    out: Path, elsewhere: dict[str, object]
) -> None:
    beat(begin(out), WHOLE, 0, 100, 4.0)
    change_heartbeat(out, WHOLE, pid=ended_process(), **elsewhere)
    found = status(out)
    assert found.gone == frozenset() and found.is_alive(found.workers[0])


def test_who_takes_over_a_killed_workers_ranges_removes_its_heartbeat(out: Path) -> None:
    folder = begin(out)
    with folder.hold_shard(Shard(1, 2)):
        pass
    beat(folder, Shard(1, 2), 1, 100, 4.0)
    with folder.hold_shard(Shard(0, 2)):
        assert [worker.shard for worker in status(out).workers] == ["1/2"]
    with folder.hold_shard(WHOLE):
        assert status(out).workers == ()


def test_half_a_heartbeat_is_passed_over(out: Path) -> None:
    """Where a network file system shows a file that is being replaced."""
    folder = begin(out)
    beat(folder, WHOLE, 0, 1, 1.0)
    path = folder.heartbeat_path(WHOLE)
    for content in (b"", path.read_bytes()[:40], b"[1]", b"{}"):
        path.write_bytes(content)
        assert status(out).workers == ()


def test_the_line_of_a_log(out: Path) -> None:
    folder = begin(out)
    assert progress_line(status(out)) == "ranges 0/5  nobody at work"
    beat(folder, WHOLE, 0, 1200, 4.0)
    expected = "ranges 0/5  1 worker  1,200 tokens  4 tokens/s  left 1:00"
    assert progress_line(status(out)) == expected
    change_heartbeat(out, WHOLE, host="node-7", time=0.0)
    assert progress_line(status(out)) == "ranges 0/5  nobody at work  1 worker silent"
    change_heartbeat(out, WHOLE, host=socket.gethostname(), pid=ended_process())
    assert progress_line(status(out)) == "ranges 0/5  nobody at work  1 worker gone"
    folder.heartbeat_path(WHOLE).unlink()
    fill(folder)
    assert progress_line(status(out)) == "ranges 5/5"
