"""Choice tasks: which of an item's candidates has the highest log-probability, summed over the
tokens that count and never divided by their number."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cdgen.corpus.special_marks import SpecialMarks
from cdgen.eval.modes import Mode
from cdgen.eval.scoring.spans import SpanEncoder, Spans
from cdgen.eval.statistics.comparison import Scored
from cdgen.eval.statistics.intervals import Estimate, mean, resampled
from cdgen.eval.summary import Prediction, Summary
from cdgen.eval.tasks.items import ChoiceTask, Item, read_items
from cdgen.eval.tasks.subtasks import Subtasks


@dataclass(frozen=True)
class Choices:
    """The tokenized items of a choice task."""

    name: str
    task: ChoiceTask
    items: list[Item]
    spans: Spans  # all candidates of the first item, then of the second, ...

    @classmethod
    def load(cls, name: str, folder: Path, task: ChoiceTask, encoder: SpanEncoder) -> Choices:
        items = read_items(folder, task)
        marks = SpecialMarks(encoder.tokenizer, encoder.tokenizer.encode_special_tokens)
        texts = [marks.seen(text) for item in items for text in item.candidates]
        for note in marks.notes():
            print(f"{name}: {note}", file=sys.stderr)
        starts = [start for item in items for start in item.starts]
        spans = encoder.endings(texts, starts) if any(starts) else encoder.whole(texts)
        return cls(name, task, items, spans)

    def predict(self, score: Callable[[Spans], np.ndarray]) -> list[Prediction]:
        """Score the candidates of each item and choose the first of the best."""
        sums = score(self.spans).tolist()
        ends = np.cumsum([0] + [len(item.candidates) for item in self.items]).tolist()
        last_index: dict[str, int] = {}
        predictions: list[Prediction] = []
        for item, (begin, end) in zip(self.items, pairwise(ends), strict=True):
            index = last_index[item.uid] = last_index.get(item.uid, -1) + 1
            scores = sums[begin:end]
            choice = max(range(len(scores)), key=scores.__getitem__)
            row: Prediction = {"uid": item.uid, "index": index, "scores": scores, "choice": choice}
            predictions.append(row if self.task.metric == "acc" else {**row, "human": item.human})
        return predictions

    def summary(self, predictions: list[Prediction], mode: Mode) -> Summary:
        credit, tied = credits_of(predictions, mode.ties_are_right)
        common: dict[str, Any] = {
            "items": len(predictions),
            "ties": int(tied.sum()),
            "cut": self.spans.cut,
        }
        if metric_of(self.task, mode) == "spearman":
            strata = np.zeros(len(predictions), np.int64)
            return Summary({"spearman": resampled(_spearman(predictions), strata, 0)}, **common)
        subtasks = Subtasks.of(predictions, self.task.file_of)
        return Summary(
            {"acc": subtasks.mean(credit)},
            parts=subtasks.parts(credit),
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

    def collated(self, predictions: list[Prediction]) -> dict[str, Any]:
        """Return predictions.json in the form of the BabyLM pipeline, under its place there;
        nothing of a task that the pipeline does not have."""
        if self.task.pipeline_folder is None:
            return {}
        content: dict[str, Any] = {}
        for item, row in zip(self.items, predictions, strict=True):
            entry: dict[str, Any] = {
                "id": f"{row['uid']}_{row['index']}",
                "pred": item.answers[row["choice"]],
            }
            if "human" in row:
                entry["prob"] = first_share(row["scores"])
            content.setdefault(row["uid"], {"predictions": []})["predictions"].append(entry)
        return {f"zero_shot/causal/{self.task.pipeline_folder}/{self.name}": content}


def metric_of(task: ChoiceTask, mode: Mode) -> str:
    return mode.wug_metric if task.metric == "spearman" else task.metric


def credits_of(
    predictions: list[Prediction], ties_are_right: bool
) -> tuple[np.ndarray, np.ndarray]:  # [n] float64, [n] bool
    """Return the credit of each item, and whether candidate 0 shares the best score.

    The credit is 1 if candidate 0 alone is best and 0 if another is better. If k candidates share
    the best score, it is 1 / k, the chance that a guess among them is right.
    """
    scores = [row["scores"] for row in predictions]
    first = np.array([own[0] == max(own) for own in scores])
    sharing = np.array([own.count(max(own)) for own in scores])
    tied = first & (sharing > 1)
    return np.where(first, 1.0 if ties_are_right else 1.0 / sharing, 0.0), tied


def first_share(scores: list[float]) -> float:
    """Return p(first) of two candidates, as the pipeline's float32 softmax gives it."""
    first, second = np.array(scores, np.float32) - np.float32(max(scores))
    return float(np.exp(first) / (np.exp(first) + np.exp(second)))


def _spearman(predictions: list[Prediction]) -> Callable[[np.ndarray], float]:
    """Return Spearman's rho between the model's and people's preference for the first form, as a
    function of how often each item was drawn.

    The difference of the two log-probabilities ranks as p(first) does, without saturating.
    """
    from scipy.stats import spearmanr

    model = np.array([row["scores"][0] - row["scores"][1] for row in predictions])
    human = np.array([row["human"] for row in predictions])

    def rho(counts: np.ndarray) -> float:
        return float(spearmanr(np.repeat(model, counts), np.repeat(human, counts))[0])

    return rho


def scored(task: ChoiceTask, runs: list[list[Prediction]], mode: Mode) -> Scored:
    """Return the runs of one method, one per seed, ready for comparison."""
    if metric_of(task, mode) == "spearman":
        values = [_spearman(predictions) for predictions in runs]
        strata = np.zeros(len(runs[0]), np.int64)
        return Scored(strata, lambda counts: np.array([v(counts) for v in values]), len(runs))
    credit = np.stack([credits_of(predictions, mode.ties_are_right)[0] for predictions in runs])
    return Subtasks.of(runs[0], task.file_of).scored(credit)
