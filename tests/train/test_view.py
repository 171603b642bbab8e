"""The view of a training run: a live line on a terminal, a line per interval elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cdgen.train.view import Pace, TrainingView

PACE = Pace(step=120, steps=500, tokens_per_second=12345.6, eta_seconds=3725.0)


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingView() as view:
        view.step(PACE)  # every step would fill a log
        view.logged(PACE, 3.21456, 1e-3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "step 120/500: loss 3.2146, learning rate 0.001, 12,346 tokens/s, left 1:02:05"
    )
    assert "memory" in line


def test_a_live_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr("cdgen.train.view.terminal_console", lambda: terminal)
    with TrainingView() as view:
        view.step(PACE)
        for loss in (4.0, 3.0, 2.0):
            view.logged(PACE, loss, 1e-3)
    assert isinstance(terminal.file, io.StringIO)
    drawn = terminal.file.getvalue()
    assert "step 120/500  loss 2.0000 █▅▁  12,346 tokens/s  left 1:02:05" in drawn
    assert drawn.endswith("\x1b[?25h")  # the cursor is back


def test_other_processes_show_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("cdgen.train.view.terminal_console", lambda: terminal)
    with TrainingView(shows=False) as view:
        view.step(PACE)
        view.logged(PACE, 2.0, 1e-3)
    assert capsys.readouterr().err == "" and terminal.file.getvalue() == ""  # type: ignore[attr-defined]
