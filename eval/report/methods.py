"""The evaluation runs that `cdgen compare` is given: methods, each with one run per seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from cdgen.errors import UsageError
from cdgen.eval.modes import MODES, Mode, Select
from cdgen.eval.report.results import read_predictions, read_results
from cdgen.eval.report.tables import ScoreName, task_scores
from cdgen.eval.statistics.comparison import Scored
from cdgen.eval.summary import Prediction
from cdgen.eval.tasks.task_list import scored


@dataclass(frozen=True)
class Method:
    """A method and its runs. Its name is SERIES or SERIES@X; the figure draws each series as a line
    over X."""

    name: str
    runs: list[Path]  # folders of `cdgen eval`, one per seed

    @property
    def series(self) -> str:
        return self.name.partition("@")[0]

    @property
    def place(self) -> str | None:
        return self.name.partition("@")[2] or None


def parse_method(text: str) -> Method:
    """Parse `DIR` or `NAME=DIR[,DIR...]`, one folder per seed. Raises UsageError."""
    name, equals, folders = text.partition("=")
    paths = [Path(folder) for folder in (folders if equals else text).split(",") if folder]
    if not paths:
        raise UsageError(f"{text!r}: expected DIR or NAME=DIR[,DIR...], one folder per seed")
    return Method(name if equals else paths[0].name, paths)


def parse_select(text: str) -> Select:
    for rule in get_args(Select):
        if text == rule:
            return cast(Select, rule)
    raise UsageError(f"--select: expected {', '.join(get_args(Select))}, got {text}")


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """The folder of results of one checkpoint of a run."""

    folder: Path
    document: dict[str, Any]  # results.json

    def score(self, name: ScoreName) -> float:
        return task_scores(self.document)[name].value


def load_methods(
    methods: Sequence[Method], select: Select | None
) -> tuple[dict[str, dict[ScoreName, Scored]], list[ScoreName]]:
    """Return the runs of each method by score, and the names of the scores that some run lacks.

    Without `select`, the mode of the runs decides which checkpoint stands for a run. Raises
    UsageError if runs differ in mode or task data, or if `select` cannot choose.
    """
    for method in methods:
        if len({folder.resolve() for folder in method.runs}) < len(method.runs):
            raise UsageError(f"{method.name}: the same folder given twice is not two seeds")
    runs = {m.name: [_checkpoints(folder) for folder in m.runs] for m in methods}
    if len(runs) < len(methods):
        raise UsageError(f"methods: expected different names, got {[m.name for m in methods]}")
    every = [c for found in runs.values() for run in found for c in run]
    mode = _common_mode(every)
    rule = select or mode.select
    scores = [set(task_scores(checkpoint.document)) for checkpoint in every]
    shared = sorted(set.intersection(*scores))
    for task in sorted({name.task for name in shared}):
        _require_same_data(task, every)
    by_method = {
        method: {
            name: _scored(name, [_choose(run, name, rule) for run in found], mode)
            for name in shared
        }
        for method, found in runs.items()
    }
    return by_method, sorted(set.union(*scores) - set(shared))


def _checkpoints(folder: Path) -> list[EvaluatedCheckpoint]:
    """Return a run's checkpoints: a lone one has its results in the folder itself, several have
    theirs one level below."""
    lone = [folder] if (folder / "results.json").exists() else []
    folders = lone or sorted(path.parent for path in folder.glob("*/results.json"))
    if not folders:
        raise UsageError(f"{folder}: expected a folder that cdgen eval wrote (no results.json)")
    found = [EvaluatedCheckpoint(path, read_results(path)) for path in folders]
    valid = [c for c in found if "invalid" not in c.document["config"]]
    if not valid:
        raise UsageError(f"{folder}: {found[0].document['config']['invalid']}")
    return valid


def _common_mode(checkpoints: list[EvaluatedCheckpoint]) -> Mode:
    modes = {c.document["config"]["mode"]: c.folder for c in checkpoints}
    if len(modes) > 1:
        found = ", ".join(f"{folder} ({mode})" for mode, folder in modes.items())
        raise UsageError(f"runs: expected one --compat mode, got {found}")
    return MODES[next(iter(modes))]


def _require_same_data(task: str, checkpoints: list[EvaluatedCheckpoint]) -> None:
    first = checkpoints[0]
    for other in checkpoints[1:]:
        hashes = [c.document["configs"][task]["data_sha256"] for c in (first, other)]
        if hashes[0] != hashes[1]:
            raise UsageError(f"{task}: {first.folder} and {other.folder} used different data")


def _choose(run: list[EvaluatedCheckpoint], name: ScoreName, select: Select) -> EvaluatedCheckpoint:
    """Return the checkpoint that stands for a run: that of least validation loss, the last, or, as
    in the paper, the best on the very items that are reported."""
    if len(run) == 1:
        return run[0]
    if select == "paper":
        higher = run[0].document["higher_is_better"][name.task][name.metric]
        return (max if higher else min)(run, key=lambda c: c.score(name))
    key = "validation_loss" if select == "validation" else "step"
    values = [c.document["config"][key] for c in run]
    if None in values:
        lacking = run[values.index(None)].folder
        raise UsageError(
            f"{lacking} has no {key}, so --select {select} cannot choose among the run's"
            f" {len(run)} checkpoints; name one folder of them, or choose by another rule"
        )
    best = min(values) if select == "validation" else max(values)
    return run[values.index(best)]


def _scored(name: ScoreName, seeds: list[EvaluatedCheckpoint], mode: Mode) -> Scored:
    runs = [read_predictions(checkpoint.folder, name.task) for checkpoint in seeds]
    _require_same_items(name.task, runs, seeds)
    kind = seeds[0].document["configs"][name.task].get("kind", name.task)
    return scored(kind, name.metric, runs, mode)


def _require_same_items(
    task: str, runs: list[list[Prediction]], seeds: list[EvaluatedCheckpoint]
) -> None:
    items = [[(row["uid"], row["index"]) for row in predictions] for predictions in runs]
    for other, seed in zip(items, seeds, strict=True):
        if other != items[0]:
            raise UsageError(f"{task}: {seeds[0].folder} and {seed.folder} have different items")
