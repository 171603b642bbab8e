"""Ctrl-C keeps the tasks that are finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


def test_finished_tasks_are_kept_and_the_exit_code_says_go_on(
    stories260k: Any, unpacked: Any, tmp_path: Path
) -> None:
    data, out = unpacked("babylm2025_full"), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "cdgen",
        "eval",
        "--model",
        stories260k.good,
        "--data",
        data,
        "--out",
        out,
        "--tasks",
        "wug_adj_nominalization,blimp_filtered",
    ]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    results, deadline = out / "results.json", time.monotonic() + 100
    while not (results.exists() and json.loads(results.read_text())["results"]):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Run the same command again" in err and "Traceback" not in err
    assert set(json.loads(results.read_text())["configs"]) == {"wug_adj_nominalization"}


def test_the_command_line_turns_typers_return_value_into_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cdgen.cli import app as command_line

    def interrupted() -> None:
        raise KeyboardInterrupt

    app = command_line.typer.Typer()
    app.command()(interrupted)
    monkeypatch.setattr(sys, "argv", ["cdgen"])
    assert command_line.run(lambda: app(standalone_mode=False)) == 75
