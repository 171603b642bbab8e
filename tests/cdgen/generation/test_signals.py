"""Kill `cdgen generate` at any moment, run it again: nothing is lost, not a byte differs.

Its processes are forked from a server that has imported everything, so that each begins its work
within a fraction of a second; what they run is the command line's own entry point.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from cdgen.corpus.folder import CorpusFolder
from cdgen.errors import Interrupted
from cdgen.generation.pace import RangePace
from cdgen.generation.shard_writer import ShardWriter
from cdgen.generation.signals import StopSignals

PATIENCE = 60.0  # seconds; every wait below takes a small fraction of it, even on a busy machine
KILLS = 10
RANGES = 30  # of 16 sequences: more than the kills can need

Command = Callable[..., Any]
Published = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[list[str]], BaseProcess]]:
    """Start `cdgen` with these arguments as a process; processes that still run at the end are
    killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "cdgen.generation.run",
            "cdgen.cli.app",
            "cdgen.engine.slot_engine",
            "cdgen.corpus.finalize",
        ]
    )
    started: list[BaseProcess] = []

    def run(arguments: list[str]) -> BaseProcess:
        process = context.Process(
            target=runpy.run_module, args=("cdgen",), kwargs={"run_name": "__main__"}, daemon=True
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")  # for the server, which begins with the first one
            patch.setattr(sys, "argv", ["cdgen", *arguments])  # handed to the new process
            process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def arguments(tiny_pair: Any, tmp_path: Path) -> list[str]:
    """Return arguments for thirty ranges of one step each; --out comes last."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("w3 w4 w5\nw20 w21\n")
    return [
        "generate",
        "--good",
        str(tiny_pair.good),
        "--bad",
        str(tiny_pair.bad),
        "--prompts",
        str(prompts),
        "--prompt-tokens",
        "4",
        "--max-new-tokens",
        "50",
        "--on-eos",
        "continue",
        "--num-sequences",
        str(RANGES * 8),
        "--slots",
        "16",
        "--range-size",
        "16",
        "--logprobs",
        "--out",
    ]


def finish(process: BaseProcess) -> int:
    process.join(PATIENCE)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def wait_until(condition: Callable[[], bool], process: BaseProcess) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.is_alive(), f"ended early with {process.exitcode}"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def ranges_done(out: Path) -> int:
    return len(list((out / ".cdgen/ranges").glob("range-*.json")))


@pytest.mark.thorough
def test_ten_kills_cost_no_byte(
    start: Callable[[list[str]], BaseProcess],
    arguments: list[str],
    published: Published,
    cdgen: Command,
    tmp_path: Path,
) -> None:
    """Kills come at random: at start-up, within a range, or between a range and its entry."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert finish(start([*arguments, str(whole)])) == 0
    moments = random.Random(2)
    for _ in range(KILLS):
        process = start([*arguments, str(out)])
        enough = ranges_done(out) + moments.choice([0, 0, 1, 2])
        wait_until(lambda: ranges_done(out) >= enough, process)  # noqa: B023
        time.sleep(moments.uniform(0, 0.06))
        process.kill()
        assert finish(process) == -signal.SIGKILL
    assert 0 < ranges_done(out) < RANGES
    assert finish(start([*arguments, str(out)])) == 0
    assert published(out) == published(whole)
    assert cdgen("verify", out).code == 0


def test_sigterm_in_mid_run(
    arguments: list[str],
    published: Published,
    start: Callable[[list[str]], BaseProcess],
    cdgen: Command,
    tmp_path: Path,
) -> None:
    """A process of its own shows everything it prints; then another plan is refused, and the same
    plan resumes."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "cdgen", *arguments, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + PATIENCE
    while ranges_done(out) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.terminate()
    said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, errors
    assert said == ""
    last = errors.splitlines()[-1]
    assert re.match(r"cdgen: stopped by a signal; range \d+ (was finished first|is dropped)", last)
    assert errors.endswith("committed ranges are kept. Run the same command again to resume.\n")
    done = ranges_done(out)
    assert 2 <= done < RANGES

    refused = cdgen(*arguments, out, "--seed", "1", "--alpha", "0.2")
    assert refused.code == 3
    assert "sampling.alpha: was 0.1, now 0.2; seed: was 0, now 1" in refused.err
    assert ranges_done(out) == done

    assert finish(start([*arguments, str(out)])) == 0
    assert finish(start([*arguments, str(whole)])) == 0
    assert published(out) == published(whole)


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.thorough)],
)
def test_a_signal_stops_at_once_and_costs_one_range(
    number: signal.Signals,
    start: Callable[[list[str]], BaseProcess],
    arguments: list[str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    process = start([*arguments, str(out)])
    wait_until(lambda: ranges_done(out) >= 1, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert finish(process) == 75
    done = ranges_done(out)
    assert 1 <= done < RANGES
    assert not list((out / ".cdgen/ranges").glob(".*"))
    assert finish(start([*arguments, str(out)])) == 0
    assert (out / "manifest.json").exists()


def test_ctrl_c_at_start_up_leaves_nothing(tmp_path: Path) -> None:
    """Outside of the steps a signal acts at once, and OUT, half set up, is removed again."""
    out = tmp_path / "out"
    with pytest.raises(Interrupted) as stopped, StopSignals(), CorpusFolder(out).set_up():
        os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.exit_code == 75
    assert not out.exists()


def test_a_second_ctrl_c_ends_the_process_at_once() -> None:
    """The first Ctrl-C waits for the end of the step, the second does not."""
    script = (
        "import os, signal\n"
        "from cdgen.generation.signals import StopSignals\n"
        "with StopSignals() as signals, signals.between_steps():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('not any more', flush=True)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (130, "still here\n")
    says = "cdgen: ended by a second Ctrl-C; committed ranges are kept."
    assert ended.stderr == f"{says} Run the same command again to resume.\n"
    part = script.replace("StopSignals()", "StopSignals(kept='')")  # another process says so
    ended = subprocess.run([sys.executable, "-c", part], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "")


# ---- the grace ---------------------------------------------------------------------------------

Stopped = Callable[..., Any]


@pytest.fixture
def stopped_in_range_1(generate_200: Command, monkeypatch: pytest.MonkeyPatch) -> Stopped:
    """Generate four ranges and send SIGTERM in the first step of the second, whose rest then takes
    `left` seconds by the measured rate. Run `then` in every step after that."""

    def run(
        out: Path, left: float, *more: object, then: Callable[[ShardWriter], None] | None = None
    ) -> Any:
        step, sent = ShardWriter._step, False

        def signalled(self: ShardWriter, report: Any) -> None:
            nonlocal sent
            if self.current == 1 and not sent:
                sent = True
                os.kill(os.getpid(), signal.SIGTERM)
            elif sent and then:
                then(self)
            step(self, report)

        monkeypatch.setattr(ShardWriter, "_step", signalled)
        monkeypatch.setattr(RangePace, "seconds_left", lambda self: left)
        ended = generate_200(out, "--range-size", 64, *more)
        monkeypatch.undo()
        assert ended.code == 75, ended
        assert ended.err.endswith("Run the same command again to resume.\n")
        return ended

    return run


def test_a_range_that_fits_into_the_grace_is_finished(
    stopped_in_range_1: Stopped, generate_200: Command, published: Published, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said = stopped_in_range_1(out, 15.0, "--grace", 1000).err
    assert ranges_done(out) == 2
    stopping = "cdgen: stopping: range 1 will be finished first, which takes about 0:15 (a second"
    assert f"{stopping} Ctrl-C ends it at once)" in said
    assert "cdgen: stopped by a signal; range 1 was finished first; committed ranges are" in said
    assert generate_200(out, "--range-size", 64).code == 0
    assert generate_200(tmp_path / "whole", "--range-size", 64).code == 0
    assert published(out) == published(tmp_path / "whole")


@pytest.mark.parametrize(
    ("left", "grace", "says"),
    [
        (15.0, 10, "about 0:15 left, --grace is 10 s"),
        (float("inf"), 1000, "nothing tells yet how long it takes"),
        (0.0, 0, "about 0:00 left, --grace is 0 s"),
    ],
)
def test_a_range_that_does_not_fit_is_dropped(
    stopped_in_range_1: Stopped, tmp_path: Path, left: float, grace: int, says: str
) -> None:
    said = stopped_in_range_1(tmp_path / "out", left, "--grace", grace).err
    assert ranges_done(tmp_path / "out") == 1
    assert f"; range 1 is dropped ({says}); committed ranges are kept. Run the same" in said
    assert "stopping" not in said


def test_a_range_that_turns_out_not_to_fit_is_dropped(
    stopped_in_range_1: Stopped, tmp_path: Path
) -> None:
    def overrun(writer: ShardWriter) -> None:
        writer.signals.deadline = 0.0

    said = stopped_in_range_1(tmp_path / "out", 15.0, "--grace", 1000, then=overrun).err
    assert ranges_done(tmp_path / "out") == 1
    assert "range 1 will be finished first" in said
    late = "range 1 was not finished within --grace (1000 s) and is dropped"
    assert f"; {late}; committed ranges are kept." in said


def test_the_grace_begins_with_the_first_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with pytest.raises(Interrupted), StopSignals(20.0) as signals, signals.between_steps():
        os.kill(os.getpid(), signal.SIGTERM)
        now = 110.0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.deadline == 120.0
        signals.check()


# ---- signals while something else waits ----------------------------------------------------------


@pytest.mark.parametrize("writes", [False, True], ids=["no writer", "a slow writer"])
def test_a_signal_during_a_read_of_prompts_from_a_pipe(
    start: Callable[[list[str]], BaseProcess], arguments: list[str], tmp_path: Path, writes: bool
) -> None:
    pipe, out = tmp_path / "pipe.txt", tmp_path / "out"
    os.mkfifo(pipe)
    arguments[arguments.index("--prompts") + 1] = str(pipe)
    process = start([*arguments, str(out)])
    # Neither end blocks this test. The process waits for a writer, or for the rest of the text.
    writer = os.open(pipe, os.O_RDWR) if writes else None
    if writer is not None:
        os.write(writer, b"w3 w4\nw5")
    wait_until((out / ".cdgen/prompts").exists, process)
    time.sleep(0.05)
    assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 75
    if writer is not None:
        os.close(writer)
    assert not out.exists()


def test_a_signal_is_not_taken_for_an_error_of_what_it_interrupts(
    cdgen: Command, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` may raise any ValueError while it asks the Hub, and that means other prompts."""
    import datasets

    def asks_the_hub(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(datasets, "load_dataset", asks_the_hub)
    arguments[arguments.index("--prompts") + 1] = "some/dataset"
    ended = cdgen(*arguments, tmp_path / "out")
    assert ended.code == 75
    assert ended.err.startswith("cdgen: stopped by a signal; ")
