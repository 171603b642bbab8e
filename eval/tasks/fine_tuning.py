"""(Super)GLUE as one task: a checkpoint is fine-tuned on each part that has data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.errors import UsageError
from cdgen.eval.modes import Mode
from cdgen.eval.statistics.comparison import Scored
from cdgen.eval.summary import Prediction, Summary, TaskResult
from cdgen.eval.tasks.glue import GlueOutcome, f1, fine_tune
from cdgen.eval.tasks.glue_examples import GLUE_TASKS
from cdgen.eval.tasks.subtasks import Subtasks


def fine_tune_all(
    folder: Path,
    data: Path,
    device: str,
    mode: Mode,
    advance: Callable[[int, int], None],  # called with the parts done and all parts
) -> TaskResult:
    """Fine-tune and score a checkpoint on every part that has both its files.

    Raises UsageError if there is no such part, or if a line is malformed.
    """
    names = [name for name in GLUE_TASKS if _has_data(data, name)]
    if not names:
        raise UsageError(f"{data}: expected PART.train.jsonl and PART.valid.jsonl, found no pair")
    outcomes = {}
    for done, name in enumerate(names):
        advance(done, len(names))
        with tempfile.TemporaryDirectory() as work:
            outcomes[name] = fine_tune(
                folder, data, name, Path(work), device=device, best_epoch=mode.best_glue_epoch
            )
    predictions = [row for name, found in outcomes.items() for row in _predictions(name, found)]
    collated = {f"finetune/{name}": _collated(name, found) for name, found in outcomes.items()}
    return TaskResult(predictions, _summary(predictions, outcomes), collated)


def _has_data(data: Path, name: str) -> bool:
    return all((data / f"{name}.{part}.jsonl").is_file() for part in ("train", "valid"))


def _predictions(name: str, outcome: GlueOutcome) -> list[Prediction]:
    columns = zip(
        outcome.scores.tolist(), outcome.predictions.tolist(), outcome.labels.tolist(), strict=True
    )
    return [
        {"uid": name, "index": index, "scores": scores, "choice": choice, "label": label}
        for index, (scores, choice, label) in enumerate(columns)
    ]


def _summary(predictions: list[Prediction], outcomes: dict[str, GlueOutcome]) -> Summary:
    subtasks, credit = Subtasks.of(predictions), _credit(predictions)
    return Summary(
        {"acc": subtasks.mean(credit)},
        items=len(predictions),
        parts=subtasks.parts(credit),
        extra={
            f"{name}_f1": f1(found.predictions, found.labels)
            for name, found in outcomes.items()
            if GLUE_TASKS[name].f1
        },
    )


def _credit(predictions: list[Prediction]) -> np.ndarray:  # [n] float64
    return np.array([float(row["choice"] == row["label"]) for row in predictions])


def _collated(name: str, outcome: GlueOutcome) -> dict[str, Any]:
    entries = [
        {"id": f"{name}_{index}", "pred": label}
        for index, label in enumerate(outcome.predictions.tolist())
    ]
    return {name: {"predictions": entries}}


def scored(runs: list[list[Prediction]]) -> Scored:
    """Return the runs of one method, one per seed, ready for comparison."""
    return Subtasks.of(runs[0]).scored(np.stack([_credit(run) for run in runs]))
