"""The tables over all checkpoints of a run: results.md and subtasks.md for people, curve.csv for
plots."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

from cdgen.eval.report.results import read_results
from cdgen.eval.statistics.intervals import Estimate
from cdgen.shown_text import in_markdown
from cdgen.storage import write_atomic

_CURVE = (
    "model",
    "step",
    "validation_loss",
    "task",
    "metric",
    "value",
    "stderr",
    "low",
    "high",
)


class ScoreName(NamedTuple):
    """A metric of a task."""

    task: str
    metric: str

    @property
    def key(self) -> str:  # in compare.json
        return f"{self.task} {self.metric}"


def write_tables(out: Path, folders: list[Path]) -> None:
    documents = [read_results(f) for f in folders if (f / "results.json").exists()]
    write_atomic(out / "results.md", markdown(documents).encode())
    write_atomic(out / "subtasks.md", subtasks_markdown(documents).encode())
    write_atomic(out / "curve.csv", curve(documents).encode())


def task_scores(document: dict[str, Any]) -> dict[ScoreName, Estimate]:
    """Return the scores of every task in a results.json, without those of sub-tasks."""
    found = {}
    for task, metrics in document["higher_is_better"].items():
        fields = document["results"][task]
        for metric in metrics:
            low, high = fields[f"{metric}_ci95,none"]
            value, stderr = fields[f"{metric},none"], fields[f"{metric}_stderr,none"]
            found[ScoreName(task, metric)] = Estimate(value, stderr, low, high)
    return found


def curve(documents: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CURVE)
    for document in documents:
        config = document["config"]
        about = (config["model"], config["step"], config["validation_loss"])
        for name, score in sorted(task_scores(document).items()):
            numbers = (score.value, score.stderr, score.low, score.high)
            writer.writerow([*about, *name, *map(repr, numbers)])
    return file.getvalue()


def markdown(documents: list[dict[str, Any]]) -> str:
    """Return a table with a row per score and a column per checkpoint: value and 95 % interval."""
    found = [task_scores(document) for document in documents]
    names = sorted({name for scores in found for name in scores})
    models = [in_markdown(document["config"]["model"]) for document in documents]
    lines = [f"| task | metric | {' | '.join(models)} |", f"|---|---|{'---:|' * len(models)}"]
    for name in names:
        cells = " | ".join(_cell(name.metric, scores.get(name)) for scores in found)
        lines.append(f"| {in_markdown(name.task)} | {in_markdown(name.metric)} | {cells} |")
    return "\n".join(lines) + "\n" + _notes(documents)


def _notes(documents: list[dict[str, Any]]) -> str:
    mode = documents[0]["config"]["mode"] if documents else "default"
    return f"\nMode: {mode}. Scores in percent, except perplexities; ranges are 95 % intervals.\n"


def subtask_scores(document: dict[str, Any]) -> dict[tuple[str, str], Estimate]:
    """Return the scores of the sub-tasks and of further groups of items (BLiMP's fields,
    MultiBLiMP's languages), by task and name: `agreement`, or `language: deu`."""
    found = {}
    for task in document["configs"]:
        metric = next(iter(document["higher_is_better"][task]))
        for key in document["group_subtasks"].get(task, ()):
            fields = document["results"][key]
            low, high = fields[f"{metric}_ci95,none"]
            value, stderr = fields[f"{metric},none"], fields[f"{metric}_stderr,none"]
            found[task, key.removeprefix(f"{task}_")] = Estimate(value, stderr, low, high)
        for label, groups in document["configs"][task]["labels"].items():
            for name, fields in groups.items():
                found[task, f"{label}: {name}"] = Estimate(**fields)
    return found


def subtasks_markdown(documents: list[dict[str, Any]]) -> str:
    """Return a table with a row per sub-task or group of items and a column per checkpoint."""
    found = [subtask_scores(document) for document in documents]
    models = [in_markdown(document["config"]["model"]) for document in documents]
    lines = [f"| task | sub-task | {' | '.join(models)} |", f"|---|---|{'---:|' * len(models)}"]
    for task, name in dict.fromkeys(key for scores in found for key in scores):
        cells = " | ".join(_cell("", scores.get((task, name))) for scores in found)
        # Phenomena have the names that the data give them.
        lines.append(f"| {in_markdown(task)} | {in_markdown(name)} | {cells} |")
    return "\n".join(lines) + "\n" + _notes(documents)


def _cell(metric: str, score: Estimate | None) -> str:
    if score is None:
        return "-"
    scale = 1 if "perplexity" in metric else 100
    value, low, high = (scale * x for x in (score.value, score.low, score.high))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
