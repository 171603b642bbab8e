"""metrics.jsonl with lines that a kill cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdgen.train.metrics import checkpoint_losses, drop_metrics_after


def test_a_line_cut_short_by_a_kill_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "validation": {"all": 3}}\n{"step": 2, "valid\n[]\n{"step": 3}\n'
        '{"step": 1, "validation": {"all": 2.5}}\n{"step": 1e999, "validation": {"all": 3}}\n'
        '{"step": 4, "validation": {"all": NaN}}\n{"step": 5, "validation": []}\n3\n'
    )
    assert checkpoint_losses(path) == {1: 2.5}


def test_damaged_lines_of_metrics_are_dropped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1}', "[]", '{"loss": 2}', '{"step": "x"}', "3", '{"step": 9}', '{"st']
    metrics.write_text("\n".join(lines))
    drop_metrics_after(metrics, 5)
    assert metrics.read_text() == '{"step": 1}\n'
    assert "5 lines are damaged or were cut short, dropped" in capsys.readouterr().err
