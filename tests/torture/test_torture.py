"""The campaign in small, and the instruments that it relies on."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import system_calls
from power_loss import Disk, Link, power_losses, without_sync, write_state, write_times
from reliability_page import BEGIN, END, table
from strace_record import STRACE, Event, parse_log, trace_into

from cdgen.errors import StorageError
from cdgen.storage import write_atomic

ROOT = Path(__file__).resolve().parents[2]
ATOMIC = [  # a file written as `write_atomic` does, in a folder that is durable
    Event("mkdir", "out"),
    Event("sync", "."),
    Event("create", "out/.a.tmp"),
    Event("write", "out/.a.tmp", b"content"),
    Event("sync", "out/.a.tmp"),
    Event("rename", "out/.a.tmp", target="out/a"),
    Event("sync", "out"),
]


@pytest.mark.thorough
@pytest.mark.timeout(1200)  # about a minute on a core that is free
def test_a_small_campaign(tmp_path: Path) -> None:
    """Every kind of fault is tried a few times. `make torture` tries them all."""
    figures = tmp_path / "figures.json"
    sizes = ["--seed", "7", "--rounds", "12", "--most", "8"]
    command = [sys.executable, ROOT / "tests/torture/campaign.py", *sizes, "--out", figures]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stderr
    parts = json.loads(figures.read_text()).values()
    faults = [fault for part in parts for fault in part["faults"]]
    assert len(faults) == 28
    for fault in faults:
        assert fault["tried"] or fault["left_out"], fault["fault"]
        assert not fault["wrong"]


def test_the_page_shows_the_figures() -> None:
    page = (ROOT / "docs/reliability.md").read_text()
    shown = page[page.index(BEGIN) + len(BEGIN) : page.index(END)].strip()
    assert shown == table(ROOT / "docs/reliability.json")


def contents(events: list[Event]) -> list[set[bytes | None]]:
    """Return what the file `a` may hold after each power failure, by the number of events; None if
    it is not there."""
    found: list[set[bytes | None]] = [set() for _ in range(len(events) + 1)]
    for seed in range(8):
        for loss in power_losses(events, seed):
            found[loss.after].add(loss.state.get("out/a"))
    return found


def test_an_atomic_write_survives_a_power_failure() -> None:
    found = contents(ATOMIC)
    assert set.union(*found) == {None, b"content"}
    assert found[-1] == {b"content"}


def test_a_power_failure_shows_each_missing_fsync() -> None:
    no_content = contents(without_sync(ATOMIC, 4))
    assert b"" in no_content[-1]
    assert any(part and len(part) < 7 for part in set.union(*no_content)), "a torn write"
    no_name = contents(without_sync(ATOMIC, 6))
    assert None in no_name[-1]
    no_folder = contents(without_sync(ATOMIC, 1))
    assert None in no_folder[-1]


def test_a_disk_forgets_what_was_not_synced() -> None:
    disk = Disk()
    for event in [*ATOMIC, Event("truncate", "out/a"), Event("write", "out/a", b"new", 0)]:
        disk.apply(event)
    assert disk.now()["out/a"] == b"new"
    assert disk.left(keeps_names=False, keeps_data=False)["out/a"] == b"content"
    disk.apply(Event("unlink", "out/a"))
    assert "out/a" not in disk.now()
    assert disk.left(keeps_names=False, keeps_data=False)["out/a"] == b"content"
    assert "out/a" not in disk.left(keeps_names=True, keeps_data=False)


def test_a_disk_forgets_links_with_their_names() -> None:
    disk = Disk()
    for event in [*ATOMIC, Event("symlink", "out/link", b"../data"), Event("sync", "out/a")]:
        disk.apply(event)
    assert disk.now()["out/link"] == Link(b"../data")
    assert "out/link" not in disk.left(keeps_names=False, keeps_data=True)
    disk.apply(Event("sync", "out"))
    assert disk.left(keeps_names=False, keeps_data=False)["out/link"] == Link(b"../data")


def test_files_are_dated_in_the_order_of_their_changes(tmp_path: Path) -> None:
    write_state({"was": None, "was/a": b"", "was/b": b""}, "was", tmp_path / "out")
    events = [Event("create", "was/b"), Event("rename", "was/.a.tmp", target="was/a")]
    write_times(events, "was", tmp_path / "out")
    moments = [(tmp_path / "out" / name).stat().st_mtime_ns for name in "ba"]
    assert moments == sorted(moments) and moments[0] < moments[1] < time.time_ns()


@pytest.mark.skipif(not STRACE, reason="strace is not installed")
def test_a_record_holds_what_children_write(tmp_path: Path) -> None:
    """Theirs is the offset of a file that they inherit, and their descriptors are their own."""
    out = tmp_path / "out"
    program = f"""
import os
os.mkdir({str(out)!r})
first = os.open({str(out / "first")!r}, os.O_WRONLY | os.O_CREAT)
os.write(first, b"parent ")
if os.fork() == 0:
    os.write(first, b"child ")
    os.close(first)
    again = os.open({str(out / "second")!r}, os.O_WRONLY | os.O_CREAT)
    os.dup2(again, 100)
    os.write(100, b"two ")
    os.write(again, b"names")
    os._exit(0)
os.wait()
os.write(first, b"parent")
os.symlink("first", {str(out / "link")!r})
"""
    log = tmp_path / "log"
    subprocess.run([*trace_into(log), sys.executable, "-c", program], check=True)
    disk = Disk()
    for event in parse_log(log, out):
        disk.apply(event)
    assert disk.now() == {
        "out": None,
        "out/first": b"parent child parent",
        "out/link": Link(b"first"),
        "out/second": b"two names",
    }


def test_calls_are_counted_and_fail_in_turn(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with system_calls.watching(out, system_calls.list_calls(tmp_path / "calls")):
        (tmp_path / "elsewhere").mkdir()
        write_atomic(out / "a", b"content")
    write_atomic(out / "a", b"unseen")
    assert (tmp_path / "calls").read_text().splitlines() == [
        "create .a.tmp",
        "write .a.tmp",
        "fsync .a.tmp",
        "rename a",
        "fsync .",
    ]
    second = system_calls.Nth("fsync", 2, system_calls.fail(errno.EIO))
    with (
        pytest.raises(StorageError, match="Input/output error"),
        system_calls.watching(out, second),
    ):
        write_atomic(out / "a", b"other")
    assert second.left == 0
