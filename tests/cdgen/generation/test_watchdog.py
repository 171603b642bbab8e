"""A run that hangs writes its stacks and ends with exit code 75; a slow one goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cdgen.generation.watchdog import Watchdog

PATIENCE = 60.0  # seconds

# The main thread waits in native code, as it would for a GPU or a lock that is never released.
_HANGS = """
import ctypes, threading
from cdgen.generation.watchdog import Watchdog

def hang_here():
    ctypes.CDLL(None).pause()

with Watchdog(0.2) as watchdog:
    watchdog.sign()
    threading.Thread(target=threading.Event().wait, name="another", daemon=True).start()
    hang_here()
"""


def test_a_hang_in_native_code_ends_the_process() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 75
    assert "in hang_here" in ended.stderr
    assert ended.stderr.count("most recent call first") == 3  # main, another, the watchdog's own
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("cdgen: no token came for ")
    assert "(--watchdog 0.2)" in last and "Run the same command again to resume" in last


class Clock:
    """A clock and a wait that the test moves."""

    def __init__(self, watchdog: Watchdog, script: list[tuple[float, int]]) -> None:
        self.now, self.watchdog, self.script = 0.0, watchdog, iter(script)

    def wait(self, poll: float) -> bool:
        """Let a poll pass, with the signs of life that the script has for it."""
        seconds, signs = next(self.script, (0.0, -1))
        self.now += seconds
        self.watchdog.signs += max(0, signs)
        return signs < 0


@pytest.mark.parametrize(
    ("script", "ends"),
    [
        ([(5.0, 0)] * 20, None),
        ([(5.0, 0)] * 21, 105.0),
        ([(5.0, 0)] * 19 + [(5.0, 1)] + [(5.0, 0)] * 20, None),
        ([(5.0, 0)] * 15 + [(5.0, 1)] + [(5.0, 0)] * 160, None),  # ten times its longest step
        ([(5.0, 0)] * 15 + [(5.0, 1)] + [(5.0, 0)] * 161, 805.0),
        ([(5.0, 0), (9999.0, 0)], None),  # stopped for hours
    ],
    ids=["at the limit", "past it", "signs", "slow steps", "slow, then none", "frozen"],
)
def test_when_silence_is_a_hang(
    script: list[tuple[float, int]], ends: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchdog = Watchdog(100.0)
    clock = Clock(watchdog, script)
    ended: list[float] = []

    def end(silence: float) -> None:
        ended.append(silence)
        clock.script = iter([])

    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    setattr(watchdog, "_ended", clock)  # noqa: B010
    setattr(watchdog, "_end", end)  # noqa: B010
    watchdog._watch()
    assert ended == ([] if ends is None else [ends])


def test_off() -> None:
    with Watchdog(0) as watchdog:
        watchdog.sign()
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_generate_watches_its_engine(tmp_path: Path, tiny_pair: Any, prompts: Path) -> None:
    """An engine that hangs after its first step, through the command."""
    program = (
        "import sys, time\n"
        "from cdgen.cli import app\n"
        "from cdgen.engine.slots import Slots\n"
        "step = Slots.step\n"
        "def once(self, *records):\n"
        "    step(self, *records)\n"
        "    Slots.step = lambda *_: time.sleep(600)\n"
        "Slots.step = once\n"
        "app.main()\n"
    )
    flags = ["--good", tiny_pair.good, "--bad", tiny_pair.bad, "--prompts", prompts]
    sizes = ["--prompt-tokens", 4, "--max-new-tokens", 20, "--watchdog", 1, "--out", tmp_path / "o"]
    ended = subprocess.run(
        [sys.executable, "-c", program, "generate", *map(str, [*flags, *sizes])],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 75, ended.stderr
    assert "shard_writer.py" in ended.stderr and "(--watchdog 1)" in ended.stderr
