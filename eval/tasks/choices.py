"""Tasks of choice: which of an item's candidates has the highest log-probability, summed over the
tokens that count (never divided by their number)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.eval.scoring.spans import SpanEncoder, Spans
from cdgen.eval.statistics.comparison import Scored, macro
from cdgen.eval.statistics.intervals import Estimate, mean, mean_of_groups, resampled
from cdgen.eval.summary import Mode, Row, Summary
from cdgen.eval.tasks.items import Item, Task, read_items


@dataclass(frozen=True)
class Choices:
    """A task's items, tokenized."""

    name: str
    task: Task
    items: list[Item]
    spans: Spans  # of every candidate of every item

    @classmethod
    def load(cls, name: str, folder: Path, task: Task, encoder: SpanEncoder) -> Choices:
        items = read_items(folder, task)
        texts = [text for item in items for text in item.candidates]
        starts = [start for item in items for start in item.starts]
        spans = encoder.endings(texts, starts) if any(starts) else encoder.whole(texts)
        return cls(name, task, items, spans)

    def rows(self, score: Callable[[Spans], np.ndarray]) -> list[Row]:
        """Scores of the candidates of each item, and the first of the best."""
        sums = score(self.spans).tolist()
        ends = np.cumsum([0] + [len(item.candidates) for item in self.items]).tolist()
        counted: dict[str, int] = {}
        rows: list[Row] = []
        for item, (begin, end) in zip(self.items, pairwise(ends), strict=True):
            index = counted[item.uid] = counted.get(item.uid, -1) + 1
            scores = sums[begin:end]
            choice = max(range(len(scores)), key=scores.__getitem__)
            row: Row = {"uid": item.uid, "index": index, "scores": scores, "choice": choice}
            rows.append(row if self.task.metric == "acc" else {**row, "human": item.human})
        return rows

    def summary(self, rows: list[Row], mode: Mode) -> Summary:
        credit, tied = credits_of(rows, mode.ties_are_right)
        common: dict[str, Any] = {
            "items": len(rows),
            "ties": int(tied.sum()),
            "cut": self.spans.cut,
        }
        if metric_of(self.name, self.task, mode) == "spearman":
            value = _correlation(rows)
            strata = np.zeros(len(rows), np.int64)
            return Summary({"spearman": resampled(value, strata, seed=0)}, **common)
        names, groups, weights = groups_of(self.name, rows)
        return Summary(
            {"acc": mean_of_groups(credit, groups, weights)},
            parts=parts_of(names, groups, credit),
            labels=self._by_label(credit),
            **common,
        )

    def _by_label(self, credit: np.ndarray) -> dict[str, dict[str, Estimate]]:
        found: dict[str, dict[str, list[int]]] = {}
        for index, item in enumerate(self.items):
            for label, value in item.labels.items():
                found.setdefault(label, {}).setdefault(value, []).append(index)
        return {
            label: {value: mean(credit[indices]) for value, indices in sorted(values.items())}
            for label, values in found.items()
        }

    def collated(self, rows: list[Row]) -> dict[str, Any]:
        """The predictions in the form of the BabyLM pipeline's predictions.json."""
        out: dict[str, Any] = {}
        for item, row in zip(self.items, rows, strict=True):
            entry: Row = {"id": f"{row['uid']}_{row['index']}", "pred": item.answers[row["choice"]]}
            if "human" in row:
                entry["prob"] = first_share(row["scores"])
            out.setdefault(row["uid"], {"predictions": []})["predictions"].append(entry)
        return out


def metric_of(name: str, task: Task, mode: Mode) -> str:
    return mode.wug_metric if task.metric == "spearman" else task.metric


def credits_of(
    rows: list[Row], ties_are_right: bool
) -> tuple[np.ndarray, np.ndarray]:  # [n] float64, [n] bool
    """1 where candidate 0 alone is best, 0 where another is better; where k share the best score,
    the chance 1 / k that a guess among them is right. And which items are such ties."""
    best = [max(row["scores"]) for row in rows]
    first = np.array([row["scores"][0] == top for row, top in zip(rows, best, strict=True)])
    sharing = np.array([row["scores"].count(top) for row, top in zip(rows, best, strict=True)])
    tied = first & (sharing > 1)
    return np.where(first, 1.0 if ties_are_right else 1.0 / sharing, 0.0), tied


def groups_of(
    name: str, rows: list[Row]
) -> tuple[list[str], np.ndarray, np.ndarray]:  # names [G], [n] int64, weights [G]
    """Sub-tasks in the order of their names, all of the same weight; in entity tracking the
    numbers of operations count alike within a file, and the files alike."""
    names, groups = np.unique([row["uid"] for row in rows], return_inverse=True)
    splits = [uid.rsplit("_", 2)[0] if name.startswith("entity_tracking") else uid for uid in names]
    alike = np.array([splits.count(split) for split in splits])
    return names.tolist(), groups, 1.0 / (alike * len(set(splits)))


def first_share(scores: list[float]) -> float:
    """p(first) of two candidates, as the pipeline's float32 softmax gives it."""
    first, second = np.array(scores, np.float32) - np.float32(max(scores))
    return float(np.exp(first) / (np.exp(first) + np.exp(second)))


def parts_of(
    names: list[str],  # [G]
    groups: np.ndarray,  # [n] int64 in 0..G-1
    credit: np.ndarray,  # [n] float64
) -> dict[str, tuple[Estimate, int]]:
    """The score of each sub-task, and how many items it has."""
    mine = {name: credit[groups == group] for group, name in enumerate(names)}
    return {name: (mean(of), len(of)) for name, of in mine.items()}


def _correlation(rows: list[Row]) -> Callable[[np.ndarray], float]:
    """Spearman's rho of the model's and people's preference for the first form. The difference of
    log-probabilities ranks as p(first) does, without saturating."""
    from scipy.stats import spearmanr

    model = np.array([row["scores"][0] - row["scores"][1] for row in rows])
    human = np.array([row["human"] for row in rows])

    def rho(counts: np.ndarray) -> float:
        return float(spearmanr(np.repeat(model, counts), np.repeat(human, counts))[0])

    return rho


def scored(name: str, task: Task, runs: list[list[Row]], mode: Mode) -> Scored:
    """The runs of one method, one per seed, ready for comparison."""
    if metric_of(name, task, mode) == "spearman":
        values = [_correlation(rows) for rows in runs]
        strata = np.zeros(len(runs[0]), np.int64)
        return Scored(strata, lambda counts: np.array([v(counts) for v in values]), len(runs))
    _, groups, weights = groups_of(name, runs[0])
    credit = np.stack([credits_of(rows, mode.ties_are_right)[0] for rows in runs])
    return macro(credit, groups, weights)
