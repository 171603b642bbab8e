"""What a run shows: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cdgen.experiment.stages import Stage
from cdgen.experiment.view import View


def stage(name: str) -> Stage:
    return Stage(name, ("status", "nowhere"), (), Path(name), lambda: False)


STAGES = [stage(name) for name in ("base", "tasks", "corpus-cd", "student-cd-0.3-seed1", "compare")]


def test_a_terminal_shows_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr("cdgen.experiment.view.terminal_console", lambda: console)
    view = View(STAGES, lambda stage: "step 5/10: [/loss] [red]2.5, ETA 0:00:07")
    with view:
        view.began(STAGES[3])
        view.show([STAGES[3]], {"base"}, {"corpus-cd": 4})
        view.ended(STAGES[3], 0, 65.0)
        view.finish({"base", "student-cd-0.3-seed1"}, {"corpus-cd": 4})
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    left = shown[shown.rindex("failed") :]  # on the screen in the end
    assert "2 of 5" in left and "running" not in left
    for part in (
        *("running", "student-cd-0.3-seed1", "step 5/10: [/loss] [red]2.5, ETA 0:00:07"),
        *("failed", "corpus-cd", "exit code 4"),
        *("waiting", "2", "tasks, compare", "done", "1 of 5"),
        "student-cd-0.3-seed1: done in 1:05",
    ):
        assert part in shown


def test_elsewhere_every_event_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    view = View(STAGES, lambda stage: "the last line")
    with view:
        view.began(STAGES[0])
        for second in range(125):
            now = 1000.0 + second
            view.show([STAGES[0]], set(), {})
        view.ended(STAGES[0], 4, 125.0)
    assert capsys.readouterr().err.splitlines() == [
        "base: begun",
        "base: 1:00  the last line",
        "base: 2:00  the last line",
        "base: FAILED (exit code 4): the last line",
    ]
