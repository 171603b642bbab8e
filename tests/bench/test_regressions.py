"""A result is worse if its ratio to the baseline of its run is, however fast the machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cdgen.bench import regressions

RESULTS = Path(__file__).resolve().parents[2] / "bench/results"
FILE = "cpu-sample-contrastive.json"


def scaled(provider: str | None, factor: float) -> dict[str, Any]:
    """Return the committed file with the times of one contender, or of all, multiplied."""
    document = json.loads((RESULTS / FILE).read_text())
    for found in document["result"]["settings"].values():
        for name, us in found["us"].items():
            if provider in (None, name):
                found["us"][name] = {key: round(value * factor, 3) for key, value in us.items()}
        if provider == "native":
            found["reference_over_native"] /= factor
    return document


@pytest.mark.parametrize(
    ("provider", "factor", "expected", "last"),
    [
        (None, 1.0, 0, "20 ratios compared, 0 regressions"),
        (None, 2.0, 0, "20 ratios compared, 0 regressions"),  # a slower machine
        ("native", 0.5, 0, "20 ratios compared, 0 regressions"),
        ("native", 1.05, 0, "20 ratios compared, 0 regressions"),  # within the margin
        ("native", 1.6, 1, "20 ratios compared, 4 regressions"),
        ("pytorch", 2.0, 1, "20 ratios compared, 4 regressions"),
    ],
)
def test_regressions(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    provider: str | None,
    factor: float,
    expected: int,
    last: str,
) -> None:
    (tmp_path / FILE).write_text(json.dumps(scaled(provider, factor)))
    monkeypatch.setattr(sys, "argv", ["regressions", str(tmp_path), "--committed", str(RESULTS)])
    assert regressions.main() == expected
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == last
    assert sum(line.startswith("REGRESSION") for line in lines) == int(last.split()[3])


def test_nothing_to_compare_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "cpu-startup.json"
    (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    monkeypatch.setattr(sys, "argv", ["regressions", str(tmp_path), "--committed", str(RESULTS)])
    assert regressions.main() == 2
    assert "nothing was compared" in capsys.readouterr().err
