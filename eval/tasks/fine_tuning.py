"""(Super)GLUE as one task: a checkpoint fine-tuned on each part whose data is there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.errors import UsageError
from cdgen.eval.statistics.comparison import Scored, macro
from cdgen.eval.statistics.intervals import mean_of_groups
from cdgen.eval.summary import Mode, Row, Summary
from cdgen.eval.tasks.choices import groups_of, parts_of
from cdgen.eval.tasks.glue import GLUE_TASKS, GlueOutcome, f1, fine_tune


def fine_tune_all(
    folder: Path,
    data: Path,
    device: str,
    mode: Mode,
    advance: Callable[[int, int], None],  # parts done and in all
) -> tuple[list[Row], Summary, dict[str, Any]]:
    """Rows, scores, and the predictions as the pipeline's finetune/PART/predictions.json.

    Raises UsageError where no part has both its files, or a line does not fit.
    """
    names = [name for name in GLUE_TASKS if _has_data(data, name)]
    if not names:
        raise UsageError(f"{data}: expected PART.train.jsonl and PART.valid.jsonl, found no pair")
    outcomes = {}
    for done, name in enumerate(names):
        advance(done, len(names))
        with tempfile.TemporaryDirectory() as work:
            # The pipeline picks the best epoch on the items that it reports.
            outcomes[name] = fine_tune(
                folder, data, name, Path(work), device=device, best_epoch=mode.pipeline_spans
            )
    rows = [row for name, outcome in outcomes.items() for row in _rows(name, outcome)]
    return rows, _summary(rows, outcomes), {n: _collated(n, o) for n, o in outcomes.items()}


def _has_data(data: Path, name: str) -> bool:
    return all((data / f"{name}.{part}.jsonl").is_file() for part in ("train", "valid"))


def _rows(name: str, outcome: GlueOutcome) -> list[Row]:
    columns = zip(
        outcome.scores.tolist(), outcome.predictions.tolist(), outcome.labels.tolist(), strict=True
    )
    return [
        {"uid": name, "index": index, "scores": scores, "choice": choice, "label": label}
        for index, (scores, choice, label) in enumerate(columns)
    ]


def _summary(rows: list[Row], outcomes: dict[str, GlueOutcome]) -> Summary:
    names, groups, weights = groups_of("glue", rows)
    right = _right(rows)
    return Summary(
        {"acc": mean_of_groups(right, groups, weights)},
        items=len(rows),
        parts=parts_of(names, groups, right),
        extra={
            f"{name}_f1": f1(outcomes[name].predictions, outcomes[name].labels)
            for name in ("mrpc", "qqp")
            if name in outcomes
        },
    )


def _right(rows: list[Row]) -> np.ndarray:  # [n] float64
    return np.array([float(row["choice"] == row["label"]) for row in rows])


def _collated(name: str, outcome: GlueOutcome) -> dict[str, Any]:
    entries = [
        {"id": f"{name}_{index}", "pred": label}
        for index, label in enumerate(outcome.predictions.tolist())
    ]
    return {name: {"predictions": entries}}


def scored(runs: list[list[Row]]) -> Scored:
    """The runs of one method, one per seed, ready for comparison."""
    _, groups, weights = groups_of("glue", runs[0])
    return macro(np.stack([_right(rows) for rows in runs]), groups, weights)
