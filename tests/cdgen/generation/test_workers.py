"""Several processes write the corpus that one writes; what stops one of them stops no other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from generate_process import starter

from cdgen.corpus.status import status
from cdgen.errors import CdgenError, UsageError
from cdgen.generation.config import GenerateConfig
from cdgen.generation.signals import StopSignals
from cdgen.generation.workers import _raise_failure, _watch, visible_device, worker_count

Published = Callable[[Path], dict[str, bytes]]
PATIENCE = 240.0  # seconds


@pytest.fixture(scope="module")
def start(
    tiny_pair: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.Popen[str]]:
    """Start `cdgen generate` for 5 x 40 sequences in 13 ranges as a process of its own."""
    return starter(tiny_pair, tmp_path_factory.mktemp("prompts"), 40)


@pytest.fixture(scope="module")
def by_one(
    start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, published: Published
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("workers") / "one"
    process = start(out, "--workers", 1)
    assert process.wait() == 0, process.stderr.read()
    return published(out)


def test_two_workers_write_the_bytes_of_one(
    start: Callable[..., Any], by_one: dict[str, bytes], tmp_path: Path, published: Published
) -> None:
    """They divide a shard as they divide the whole."""
    out = tmp_path / "out"
    assert start(out, "--workers", 2, "--shard", "0/2").wait() == 0
    assert status(out).ranges_done == 7  # 0, 2, ... 12
    assert start(out, "--workers", 1).wait() == 0
    assert published(out) == by_one


@pytest.mark.thorough
def test_two_workers_without_a_shard(
    start: Callable[..., Any], by_one: dict[str, bytes], tmp_path: Path, published: Published
) -> None:
    assert start(tmp_path, "--workers", 2).wait() == 0
    assert published(tmp_path) == by_one


@pytest.mark.thorough
def test_a_worker_that_is_killed_is_told_and_made_up_for(
    start: Callable[..., Any], by_one: dict[str, bytes], tmp_path: Path, published: Published
) -> None:
    out, until = tmp_path / "killed", time.monotonic() + PATIENCE
    process = start(out, "--workers", 2)
    while not (pids := _workers(out)):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    os.kill(pids[0], signal.SIGKILL)
    code, said = process.wait(), process.stderr.read()
    if code == 0:  # it had just done its last range
        assert published(out) == by_one
        return
    assert code == 75, said
    killed = "was killed by signal 9 (often by the system, when memory runs out); what it had not"
    assert f"cdgen: the worker of shard 0/2 {killed} committed is left to do" in said
    end = said.splitlines()[-1]  # the second one may not have begun yet
    assert end.startswith(("cdgen: 1 of 2 workers ended early", "cdgen: 1 of 1 worker ended"))
    assert end.endswith("committed ranges are kept. Run the same command again to resume.")
    assert not (out / "manifest.json").exists()
    assert start(out, "--workers", 2).wait() == 0
    assert published(out) == by_one


def _workers(out: Path) -> list[int]:
    try:
        return [worker.pid for worker in status(out).workers]
    except ValueError:  # no plan yet
        return []


@pytest.mark.thorough
def test_what_is_wrong_is_said_once(start: Callable[..., Any], tmp_path: Path) -> None:
    process = start(tmp_path / "out", "--workers", 2, "--good", tmp_path / "nowhere")
    assert process.wait() == 4
    assert process.stderr.read().count("no such folder") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_a_signal_to_the_first_stops_all(start: Callable[..., Any], tmp_path: Path) -> None:
    out, until = tmp_path / "out", time.monotonic() + PATIENCE
    process = start(out, "--workers", 2, "--num-sequences", 4000)
    while len(_workers(out)) < 2:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    pids = _workers(out)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("grace", [600, pytest.param(0, marks=pytest.mark.thorough)])
def test_workers_finish_their_ranges_within_the_grace(
    start: Callable[..., Any], tmp_path: Path, grace: int
) -> None:
    """The one that was started waits for them and passes the signal on."""
    out, until = tmp_path / "out", time.monotonic() + PATIENCE
    process = start(out, "--workers", 2, "--grace", grace)
    while not _workers(out):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, said = process.wait(), process.stderr.read()
    assert code == 75, said
    assert said.splitlines()[-1].startswith("cdgen: stopped by a signal; committed ranges are kept")
    assert "Traceback" not in said
    *parts, end = said.splitlines()
    assert end.endswith("; committed ranges are kept. Run the same command again to resume.")
    for line in parts:  # each says what became of the range of its shard, and no more
        if line.startswith("cdgen: stopped by a signal; "):
            assert re.search(r"range \d+ of shard [01]/2 (was finished first|is dropped .*)$", line)
    if not grace:
        assert "will be finished" not in said
    assert _workers(out) == []


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)]
)
def test_workers_end_with_the_process_that_started_them(
    start: Callable[..., Any], tmp_path: Path, number: signal.Signals
) -> None:
    """Killed, or by a second Ctrl-C: none goes on alone and keeps others out of its shard."""
    out, until = tmp_path / "out", time.monotonic() + PATIENCE
    process = start(out, "--workers", 2, "--num-sequences", 4000, "--grace", 600)
    while len(_workers(out)) < 2:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    pids = _workers(out)
    process.send_signal(number)
    if number == signal.SIGINT:
        time.sleep(0.05)
        process.send_signal(number)
        assert process.wait() in (75, 130)  # 75 if all had ended before the second one came
    process.wait()
    while any(map(_is_running, pids)):
        assert time.monotonic() < until
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


class Ended:
    """A worker process that has ended."""

    def __init__(self, name: str, exitcode: int) -> None:
        self.name, self.exitcode = name, exitcode

    def is_alive(self) -> bool:
        return False


def test_what_a_killed_worker_cannot_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {"good": "g", "bad": "b", "prompts": "p", "out": tmp_path}
    ended: Any = [Ended("0/3", 0), Ended("1/3", -signal.SIGSEGV), Ended("2/3", 75)]
    with StopSignals() as signals:
        _watch(GenerateConfig.model_validate(needed), ended, signals)
    said = "cdgen: the worker of shard 1/3 was killed by signal 11; what it had not committed is"
    assert capsys.readouterr().err == f"{said} left to do\n"


@pytest.mark.parametrize(
    ("exit_codes", "code", "says"),
    [
        ([0, -9], 75, r"1 of 2 workers ended .* kept\. Run the same command again to resume"),
        ([-9], 75, "1 of 1 worker ended early"),
        ([75, 5, -9], 5, r"3 of 3 workers .* Remove the cause, then run the same command again"),
        ([1, 0], 1, "1 of 2 workers"),
    ],
)
def test_an_error_to_mend_decides_the_exit_code(
    exit_codes: list[int], code: int, says: str
) -> None:
    with pytest.raises(CdgenError, match=says) as raised:
        _raise_failure(exit_codes)
    assert raised.value.exit_code == code


def test_workers_that_all_succeed() -> None:
    _raise_failure([0, 0])


def test_a_gpu_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible_device(n, "auto") for n in range(3)] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-3")
    assert [visible_device(n, "cuda") for n in range(2)] == ["5", "GPU-3"]
    assert visible_device(7, "cpu") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_device(0, "auto") is None


def test_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(**flags: object) -> int:
        needed = {"good": "g", "bad": "b", "prompts": "p", "out": "o"}
        return worker_count(GenerateConfig.model_validate({**needed, **flags}))

    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert (count(), count(device="cpu"), count(workers="3")) == (4, 1, 3)
    assert count(device="cpu", workers=9) == 9
    with pytest.raises(UsageError, match="at most one per GPU, 4, got 5"):
        count(workers=5)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert count() == 1
