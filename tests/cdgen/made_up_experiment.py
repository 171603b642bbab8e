"""Folders of made-up experiments. Their scores are drawn at random and mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from small_corpus import begin, make_row

from cdgen.corpus.finalize import finalize
from cdgen.corpus.ranges import commit_range, pending_ranges
from cdgen.corpus.shard import Shard
from cdgen.eval.checkpoints import NamedCheckpoint
from cdgen.eval.modes import MODES
from cdgen.eval.report.results import ResultFolder
from cdgen.eval.statistics.intervals import Estimate, mean
from cdgen.eval.summary import Summary, TaskResult
from cdgen.experiment.layout import Layout, Student, students_of
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.record import Experiment, StageRecord, write_experiment, write_stages
from cdgen.settings import read_yaml
from cdgen.storage import canonical_json, make_folder, write_atomic

SMOKE_RUN = Path(__file__).resolve().parents[2] / "recipes/smoke-run.yaml"
ITEMS = 400
ARMS = {
    "vanilla": {"strategy": "vanilla"},
    "plausible": {"strategy": "plausible", "alpha": 0.1},
    "cd": {"strategy": "cd", "bad": "layers:2", "alpha": 0.1},
    "cd-k50": {"strategy": "cd", "bad": "layers:2", "alpha": 0.1, "top_k": 50},
    "vanilla-k50": {"strategy": "vanilla", "top_k": 50},
}


def make_recipe(**changes: Any) -> RunRecipe:
    """Return a recipe with the base run of smoke-run, which is never made."""
    base = {"name": "base", **read_yaml(SMOKE_RUN)["base"]}
    fields: dict[str, Any] = {
        "name": "made-up",
        "base": base,
        "corpora": {"num_sequences": 4, "max_new_tokens": 6},
        "arms": {name: ARMS[name] for name in ("vanilla", "cd")},
        "mixture": {"ratios": [0.3]},
        "seeds": [1, 2, 3],
        "evaluation": {"tasks": ["blimp_fast", "perplexity"]},
    }
    return RunRecipe.model_validate(fields | changes)


class MadeUp:
    """An experiment's folder, filled piece by piece as its stages would fill it."""

    def __init__(self, out: Path, recipe: RunRecipe) -> None:
        self.out, self.recipe, self.layout = out, recipe, Layout(out)
        self.stages: dict[str, StageRecord] = {}
        write_experiment(Experiment(recipe=recipe, data=Path("/data"), cdgen_version="0.1.0"), out)

    def stage(self, name: str, state: Any = "done", seconds: float = 90.0) -> None:
        command = f"cdgen {name.partition('-')[0]} --out {name}"
        self.stages[name] = StageRecord(
            name=name, command=command, state=state, seconds=seconds, attempts=1
        )
        write_stages(self.stages, self.out)

    def score(self, student: Student, accuracy: float, loss: float = 3.0) -> None:
        """Write the scores that `cdgen eval` would leave of a student of this accuracy."""
        folder = self.layout.scores(student)
        rng = np.random.default_rng([student.seed, *student.method.encode()])
        named = NamedCheckpoint("checkpoint-4", folder, 4, None)
        results = ResultFolder.open(folder, named, student.name, MODES["default"])
        hard = np.random.default_rng(0).random(ITEMS)  # the same items are hard for all
        right = hard + 0.2 * rng.normal(size=ITEMS) < accuracy
        rows = [
            {
                "uid": f"u{i % 4}",
                "index": i // 4,
                "scores": [0.0, -1.0 if r else 1.0],
                "choice": int(not r),
            }
            for i, r in enumerate(right.tolist())
        ]
        scores = Estimate(float(right.mean()), 0.02, 0.4, 0.6)
        parts = {f"u{part}": (mean(right[part::4].astype(float)), ITEMS // 4) for part in range(4)}
        summary = Summary({"acc": scores}, ITEMS, parts=parts)
        results.add("blimp_fast", "d", TaskResult(rows, summary, {}))
        sums = -20 * (loss + 0.1 * np.random.default_rng(0).normal(size=60) + 0.01 * rng.normal())
        rows = [
            {"uid": "perplexity", "index": i, "scores": [s], "tokens": 20, "words": 15, "bytes": 80}
            for i, s in enumerate(sums.tolist())
        ]
        summary = Summary({"perplexity": Estimate(float(np.exp(loss)), 0.1, 1.0, 99.0)}, 60)
        results.add("perplexity", "d", TaskResult(rows, summary, {}))

    def score_all(
        self, accuracies: dict[str, float], losses: dict[str, float] | None = None
    ) -> None:
        """Write the scores of the students of some arms."""
        for student in students_of(self.recipe):
            if student.arm in accuracies:
                loss = (losses or {}).get(student.arm, 3.0)
                self.score(student, accuracies[student.arm], loss)
                self.stage(f"eval-{student.name}")

    def corpus(self, arm: str, text: str | None = None, **changes: Any) -> None:
        """Write a corpus of forty rows, all of them `text` if it is given, and its measures."""
        make_folder(self.layout.corpus(arm).parent)
        folder = begin(self.layout.corpus(arm), **changes)
        for index in pending_ranges(folder, Shard(0, 1)):
            rows = [make_row(folder.plan, number) for number in folder.plan.sequence_ids(index)]
            if text is not None:
                rows = [type(row)(**{**_fields(row), "text": text}) for row in rows]
            commit_range(folder, index, rows)
        finalize(folder.out)
        interval = {"value": 20.5, "stderr": 1.0, "low": 18.0, "high": 23.0}
        measures = {
            "distinct_words": 100,
            "distinct": {"1": 0.25, "2": 0.5, "3": 0.75, "4": None},
            "repetition": 0.125,
            "duplicates": 0.0,
            "novelty": {"1": 0.0, "2": 0.125, "3": 0.25, "5": 0.5, "7": None},
            "judge": {
                "model_sha256": folder.plan.good_sha256,
                "perplexity": interval,
                "word_perplexity": interval,
            },
            "plausible_sets": {"median": 3.0, "p99": 41.0, "largest": 97, "truncated": 0.125},
        }
        make_folder(self.layout.measure(arm).parent)
        write_atomic(self.layout.measure(arm), canonical_json(measures))
        self.stage(f"corpus-{arm}", seconds=10.0)

    def mixture(self, student: Student, epochs: float) -> None:
        """Write how often a student reads its corpus."""
        run = self.layout.student(student, self.recipe.base.seed)
        run.mkdir(parents=True)
        streams = {"real": {"epochs": 3.0}, "synthetic": {"epochs": epochs}}
        (run / "mixture.json").write_text(json.dumps({"streams": streams, "texts": {}}))


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}
