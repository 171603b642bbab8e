"""The scores of one task, and their fields in results.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cdgen.eval.statistics.intervals import Estimate

# One line of predictions/TASK.jsonl: uid (the sub-task), index within it, scores (nats), and what
# the task adds to them.
Prediction = dict[str, Any]

LOWER_IS_BETTER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Summary:
    """The scores of one task: fractions, except for perplexities.

    `parts` are the sub-tasks that the first metric averages. `labels` group the items in further
    ways (BLiMP's fields and terms); there every item of a group has the same weight.
    """

    metrics: dict[str, Estimate]
    items: int
    ties: int = 0  # items whose right candidate shares the best score with another
    cut: int = 0  # texts longer than the model's context, of which only the end was scored
    parts: dict[str, tuple[Estimate, int]] = field(default_factory=dict)  # score, number of items
    labels: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)  # numbers without an interval


@dataclass(frozen=True)
class TaskResult:
    """All that one task yields of a checkpoint."""

    predictions: list[Prediction]
    summary: Summary
    collated: dict[str, Any]  # predictions.json files by their place in the pipeline's results
    kind: str | None = None  # of the task, if its name does not tell it


def metric_fields(metrics: dict[str, Estimate]) -> dict[str, Any]:
    """Return value, standard error and interval under the names of lm-evaluation-harness, such as
    `acc,none` and `acc_stderr,none`."""
    fields: dict[str, Any] = {}
    for name, estimate in metrics.items():
        fields[f"{name},none"] = estimate.value
        fields[f"{name}_stderr,none"] = estimate.stderr
        fields[f"{name}_ci95,none"] = [estimate.low, estimate.high]
    return fields


def label_fields(labels: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    return {
        label: {value: asdict(estimate) for value, estimate in groups.items()}
        for label, groups in labels.items()
    }
