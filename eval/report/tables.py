"""The tables over all checkpoints of a run: results.md for people, curve.csv for plots."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from cdgen.eval.report.results import read_results
from cdgen.storage import write_atomic

_CURVE = (
    "model", "step", "validation_loss", "task", "metric", "value", "stderr", "low", "high",
)  # fmt: skip


def write_tables(out: Path, folders: list[Path]) -> None:
    documents = [read_results(f) for f in folders if (f / "results.json").exists()]
    write_atomic(out / "results.md", markdown(documents).encode())
    write_atomic(out / "curve.csv", curve(documents).encode())


def headline(document: dict[str, Any]) -> dict[tuple[str, str], tuple[float, float, float, float]]:
    """(task, metric) -> value, stderr, low, high of every task, without its sub-tasks."""
    found = {}
    for task, metrics in document["higher_is_better"].items():
        fields = document["results"][task]
        for metric in metrics:
            low, high = fields[f"{metric}_ci95,none"]
            value, stderr = fields[f"{metric},none"], fields[f"{metric}_stderr,none"]
            found[task, metric] = (value, stderr, low, high)
    return found


def curve(documents: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CURVE)
    for document in documents:
        config = document["config"]
        about = (config["model"], config["step"], config["validation_loss"])
        for (task, metric), numbers in sorted(headline(document).items()):
            writer.writerow([*about, task, metric, *(repr(number) for number in numbers)])
    return file.getvalue()


def markdown(documents: list[dict[str, Any]]) -> str:
    """A row per score, a column per checkpoint: value and 95 % interval."""
    found = [headline(document) for document in documents]
    rows = sorted({score for scores in found for score in scores})
    names = [document["config"]["model"] for document in documents]
    lines = [f"| task | metric | {' | '.join(names)} |", f"|---|---|{'---:|' * len(names)}"]
    for task, metric in rows:
        cells = " | ".join(_cell(metric, scores.get((task, metric))) for scores in found)
        lines.append(f"| {task} | {metric} | {cells} |")
    mode = documents[0]["config"]["mode"] if documents else "default"
    notes = f"\nMode: {mode}. Scores but perplexities in percent; ranges are 95 % intervals.\n"
    return "\n".join(lines) + "\n" + notes


def _cell(metric: str, numbers: tuple[float, float, float, float] | None) -> str:
    if numbers is None:
        return "-"
    value, _, low, high = (x if "perplexity" in metric else 100 * x for x in numbers)
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
