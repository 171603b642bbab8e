"""The progress of scoring says how fast it is, and how long it takes."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from cdgen.eval.report import display


def test_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "LOG_INTERVAL", 0.0)
    with display.Display(1) as view:
        view.task("glue", "parts")(0, 8)
        view.task("glue", "parts")(2, 8)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "  glue 0 %"
    assert re.match(r"  glue 25 %  [\d,]+ parts/s  left 0:00  (GPU )?memory ", second)


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(display, "terminal_console", lambda: terminal)
    with display.Display(1) as view:
        view.begin("model", 0, 1)
        view.task("blimp")(1000, 4000)
    assert isinstance(terminal.file, io.StringIO)
    drawn = terminal.file.getvalue()
    assert "model blimp" in drawn and "25%" in drawn
    assert re.search(r"tokens/s  left \d+:\d\d", drawn)
