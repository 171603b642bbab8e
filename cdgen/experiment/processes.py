"""The process of a stage: on this machine, or on a node of a Ray cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from cdgen.errors import Interrupted, LockHeld
from cdgen.generation.ray.cluster import Share
from cdgen.generation.signals import end_with_parent
from cdgen.storage import lock

_TRIES = 3  # nodes that a stage may cost


class StageProcess(Protocol):
    """What `subprocess.Popen` has of it."""

    returncode: int | Any

    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


@contextmanager
def held_by_stages(path: Path) -> Iterator[int]:
    """Yield the descriptor of a lock for stages to inherit.

    A run that was killed leaves its stages some seconds to end; the next one waits for them here.
    """
    with ExitStack() as held:
        try:
            descriptor = held.enter_context(lock(path, "held"))
        except LockHeld:
            print(f"waiting for stages of a run that was killed ({path})", file=sys.stderr)
            descriptor = held.enter_context(lock(path))
        yield descriptor


def start_process(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    inherited: Sequence[int] = (),  # descriptors
) -> subprocess.Popen[bytes]:
    """Start `cdgen` with these arguments; what it prints is appended to `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "cdgen", *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment),
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            preexec_fn=_before_stage,
            pass_fds=inherited,
        )


def _before_stage() -> None:
    """Let the stage end with `run`, even if that is killed, and let it hear Ctrl-C.

    A shell starts background jobs with SIGINT ignored, and children would inherit that. Ray blocks
    it in all that it starts.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent(signal.SIGTERM)


class StageOnNode:
    """The actor that runs a stage on its node. `pass_on` answers while `run` waits."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def run(
        self, command: Sequence[str], folder: str, log: str, environment: Mapping[str, str]
    ) -> int:
        """Run `cdgen` in `folder`, which all nodes share, and return its exit code."""
        os.chdir(folder)
        self.process = start_process(command, Path(log), environment)
        return self.process.wait()

    def pass_on(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)


class RayProcess:
    """A stage on some node with room for `share`. If the node is lost, it begins again elsewhere:
    a stage goes on from what it has written."""

    def __init__(self, command: Sequence[str], log: Path, share: Share) -> None:
        threads = {"OMP_NUM_THREADS": str(share.cpus)}
        self.arguments = (tuple(command), os.getcwd(), str(log.absolute()), threads)
        self.log, self.share, self.tries = log, share, 0
        self.returncode: int | None = None
        self._start()

    def _start(self) -> None:
        import ray

        self.tries += 1
        actor = ray.remote(concurrency_groups={"signals": 1})(StageOnNode)
        placed = actor.options(num_cpus=self.share.cpus, num_gpus=self.share.gpus)
        self.actor = placed.remote()
        self.call = self.actor.run.remote(*self.arguments)

    def poll(self) -> int | None:
        return self._look(timeout=0.0)

    def _look(self, timeout: float) -> int | None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        if self.returncode is not None or not ray.wait([self.call], timeout=timeout)[0]:
            return self.returncode
        try:
            self.returncode = ray.get(self.call)
        except RayTaskError as error:
            self._note(f"cannot be started on its node: {error.cause}")
            self.returncode = 1
        except RayError:
            if self.tries < _TRIES:
                self._note("the node was lost: begun again on another")
                self._start()
                return None
            self._note(f"{_TRIES} nodes were lost")
            self.returncode = Interrupted.exit_code
        self.kill()  # which gives its share of the node back
        return self.returncode

    def _note(self, line: str) -> None:
        with self.log.open("a") as file:
            file.write(f"cdgen: {line}\n")

    def send_signal(self, sig: int, /) -> None:
        self.tries = _TRIES  # it is to end
        self.actor.pass_on.options(concurrency_group="signals").remote(sig)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        until = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self._look(timeout=0.2)) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.arguments[0], timeout or 0.0)
        return code

    def kill(self) -> None:
        import ray

        ray.kill(self.actor)
        if self.returncode is None:
            self.returncode = -signal.SIGKILL
