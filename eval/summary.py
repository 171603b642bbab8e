"""What a task says about a model, whatever its kind; and how ties and the pipeline's habits count.

The modes: `default` counts a tie as the chance of a guess, scores the first token too, and keeps
to the context that the model was made for. `babylm2025` counts as babylm/evaluation-pipeline-2025
does; `paper` as Ulm, Du & Snæbjarnarson 2025 did with an earlier commit of it (WUG by accuracy).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cdgen.eval.statistics.intervals import Estimate

Row = dict[str, Any]  # one line of a predictions file


@dataclass(frozen=True)
class Mode:
    name: str
    ties_are_right: bool = False
    pipeline_spans: bool = False  # contexts, first tokens and reading as in the pipeline
    wug_metric: str = "spearman"


MODES = {
    mode.name: mode
    for mode in (
        Mode("default"),
        Mode("babylm2025", ties_are_right=True, pipeline_spans=True),
        Mode("paper", ties_are_right=True, pipeline_spans=True, wug_metric="acc"),
    )
}


@dataclass(frozen=True)
class Summary:
    """Scores of one task. `metrics` are those that count, as fractions; perplexities as they are.

    `parts` are the sub-tasks that the first metric is a mean over, `labels` further groupings of
    the items (BLiMP's fields and terms), where the items of a group count alike.
    """

    metrics: dict[str, Estimate]
    items: int
    ties: int = 0  # items whose right candidate shares the best score with another
    cut: int = 0  # texts longer than the model's context, scored on their end
    parts: dict[str, tuple[Estimate, int]] = field(default_factory=dict)  # and how many items
    labels: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)  # numbers without an interval


LOWER_IS_BETTER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")


def metric_fields(metrics: dict[str, Estimate]) -> dict[str, Any]:
    """In lm-evaluation-harness' spelling: `acc,none` and `acc_stderr,none`; and the interval."""
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
