"""Whether a process still runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from small_corpus import ended_process

from cdgen.pids import is_running, pid_space


def test_processes_that_run_and_one_that_does_not() -> None:
    assert is_running(os.getpid())
    assert is_running(1)  # which belongs to root
    assert not is_running(ended_process())


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_that_nobody_waited_for_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    until = time.monotonic() + 60
    while is_running(process.pid):
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, 0)  # it is still listed
    process.wait()


def test_two_processes_of_one_machine_share_their_numbers() -> None:
    script = "from cdgen.pids import pid_space; print(pid_space())"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert other.stdout.strip() == pid_space()
