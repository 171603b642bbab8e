"""metrics.jsonl of a run: a line per logged interval, and one per validated checkpoint."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdgen.storage import sync_folder, write_atomic

METRICS = "metrics.jsonl"


def append_metrics(metrics: Path, entry: Mapping[str, Any]) -> None:
    """Add a line, durably: a checkpoint that survives a power failure needs the losses of those
    before it."""
    is_new = not metrics.exists()
    with metrics.open("a") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(metrics.parent)


def drop_metrics_after(metrics: Path, step: int) -> None:
    """Drop the entries of an interrupted run beyond the step from which training resumes, and
    report how many lines cannot be read."""
    if not metrics.exists():
        return
    kept, damaged = [], 0
    for line in metrics.read_text(errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            damaged += 1
    if damaged:
        print(f"{metrics}: {damaged} lines are damaged or were cut short, dropped", file=sys.stderr)
    write_atomic(metrics, "".join(kept).encode())


def checkpoint_losses(metrics: Path) -> dict[int, float]:
    """Return the finite validation losses over all sources, by step. The last line of a step
    counts."""
    losses = {}
    for line in metrics.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            losses[int(entry["step"])] = float(entry["validation"]["all"])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # cut short by a kill; the step was repeated, or has no checkpoint
    return {step: loss for step, loss in losses.items() if math.isfinite(loss)}
