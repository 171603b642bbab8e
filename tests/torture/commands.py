"""`cdgen` commands as processes forked from this one.

Whoever starts them has imported everything, so a real SIGKILL and a restart together cost a
fraction of a second. What runs is the command line's own entry point. The starting process must
have one thread only: it forks.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cdgen.cli import app

PATIENCE = 120.0  # seconds; a command below takes a small fraction of it, even on a busy machine
KILLED = -signal.SIGKILL
Change = Callable[[], None]  # of the new process, before its command begins


def unchanged() -> None:
    """Let a command run as it is."""


@dataclass
class Command:
    """A command that runs as a process of its own."""

    pid: int
    said: Path  # what it printed

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # not waited for yet, so the number is still its own

    def wait(self) -> int:
        """Return the exit code, or minus the signal that ended the process. Kills a process that
        hangs, and raises TimeoutError."""
        ended = os.pidfd_open(self.pid)
        ready, _, _ = select.select([ended], [], [], PATIENCE)
        os.close(ended)
        if not ready:
            self.kill()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if not ready:
            raise TimeoutError(f"hangs: {self.said.read_text()}")
        return code


def start(arguments: Sequence[str], said: Path, change: Change = unchanged) -> Command:
    """Fork a process that runs `cdgen` with these arguments."""
    pid = os.fork()
    if pid == 0:
        with said.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        _end(arguments, change)
    return Command(pid, said)


def run(arguments: Sequence[str], said: Path, change: Change = unchanged) -> int:
    """Run `cdgen` with these arguments; return its exit code."""
    return start(arguments, said, change).wait()


def _end(arguments: Sequence[str], change: Change) -> None:
    """Run `cdgen` in this forked process, and end it."""
    code: Any = 1
    try:
        sys.argv = ["cdgen", *arguments]
        change()
        app.main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 1)


def in_a_fork(act: Callable[[], object]) -> None:
    """Call `act` in a forked process. Torch must compute nothing in this one: its threads would be
    missing in every process forked later."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{act} failed")


def import_what_they_need(
    commands: Sequence[Sequence[str]], said: Path, change: Change = unchanged
) -> None:
    """Run each command once, and import here what it imported there."""
    for command in commands:
        listed = said.with_suffix(".modules")
        listed.unlink(missing_ok=True)

        def note(listed: Path = listed) -> None:
            change()
            end = os._exit

            def note_and_end(code: int) -> None:
                with listed.open("a") as file:  # a stage ends before its experiment does
                    file.write("".join(f"{name}\n" for name in sys.modules))
                end(code)

            os._exit = note_and_end  # type: ignore[assignment]

        if code := run(command, said, note):
            raise RuntimeError(f"{command} ended with {code}: {said.read_text()}")
        for name in dict.fromkeys(listed.read_text().split("\n")):
            if name and name not in sys.modules and not name.startswith(("__", "triton")):
                with suppress(Exception):  # some are made by other modules
                    importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page


# ---- the stages of `cdgen run` -----------------------------------------------------------------


class ForkedStage:
    """What the runner of an experiment uses of subprocess.Popen, with a fork in place of exec."""

    def __init__(
        self,
        command: list[str],
        stdout: Any,
        env: Any,
        preexec_fn: Change,
        pass_fds: Sequence[int],
        **_: Any,
    ) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.dup2(stdout.fileno(), 1)
            os.dup2(stdout.fileno(), 2)
            # As exec would: a lock of the runner must not live on here.
            edges = [2, *sorted(pass_fds), 1024]
            for before, after in pairwise(edges):
                os.closerange(before + 1, after)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            os.environ.update(env)
            preexec_fn()
            _end(command[3:], unchanged)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork_stages() -> None:
    """Let `cdgen run` fork its stages, which would otherwise import everything anew."""
    from cdgen.experiment import processes, runner

    same = {name: getattr(subprocess, name) for name in ("DEVNULL", "STDOUT")}
    processes.subprocess = SimpleNamespace(Popen=ForkedStage, **same)  # type: ignore[assignment]
    runner._POLL = 0.02
