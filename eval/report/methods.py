"""The evaluation runs that `cdgen compare` is given: methods, each with one run per seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from cdgen.errors import UsageError
from cdgen.eval.report.results import read_predictions, read_results
from cdgen.eval.report.tables import headline
from cdgen.eval.statistics.comparison import Scored
from cdgen.eval.summary import MODES, Mode, Row
from cdgen.eval.tasks import choices, perplexity, reading
from cdgen.eval.tasks.items import task_named

Column = tuple[str, str]  # task, metric
Select = Literal["validation", "last", "paper"]


@dataclass(frozen=True)
class Method:
    """`name` is SERIES or SERIES@X: methods of one series make a line in the figure, over X."""

    name: str
    runs: list[Path]  # folders of `cdgen eval`, one per seed

    @property
    def series(self) -> str:
        return self.name.partition("@")[0]

    @property
    def place(self) -> str | None:
        return self.name.partition("@")[2] or None


def parse_method(text: str) -> Method:
    """From `DIR` or `NAME=DIR[,DIR...]`, a folder per seed. Raises UsageError."""
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
class Checkpoint:
    """One evaluated checkpoint of a run."""

    folder: Path
    document: dict[str, Any]

    def score(self, column: Column) -> float:
        return headline(self.document)[column][0]


def load_methods(
    methods: Sequence[Method], select: Select | None
) -> tuple[dict[str, dict[Column, Scored]], list[Column]]:
    """What `compare` takes, for the columns that every run has; and those that some lack.

    Without `select`, runs in the paper's mode follow the paper's rule, others validation loss.
    Raises UsageError where runs differ in mode or task data, or `select` cannot choose.
    """
    for method in methods:
        if len({folder.resolve() for folder in method.runs}) < len(method.runs):
            raise UsageError(f"{method.name}: the same folder twice is not two seeds")
    runs = {m.name: [_checkpoints(folder) for folder in m.runs] for m in methods}
    if len(runs) < len(methods):
        raise UsageError(f"methods: expected different names, got {[m.name for m in methods]}")
    every = [c for found in runs.values() for run in found for c in run]
    mode = _common_mode(every)
    rule: Select = select or ("paper" if mode.name == "paper" else "validation")
    columns = [set(headline(checkpoint.document)) for checkpoint in every]
    shared = sorted(set.intersection(*columns))
    for task in sorted({task for task, _ in shared}):
        _require_same_data(task, every)
    scored = {
        name: {
            column: _scored(column, [_choose(run, column, rule) for run in found], mode)
            for column in shared
        }
        for name, found in runs.items()
    }
    return scored, sorted(set.union(*columns) - set(shared))


def _checkpoints(folder: Path) -> list[Checkpoint]:
    """A run of one checkpoint has its results in the folder itself, of several one level below."""
    lone = [folder] if (folder / "results.json").exists() else []
    folders = lone or sorted(path.parent for path in folder.glob("*/results.json"))
    if not folders:
        raise UsageError(f"{folder}: expected a folder that cdgen eval wrote (no results.json)")
    found = [Checkpoint(path, read_results(path)) for path in folders]
    valid = [c for c in found if "invalid" not in c.document["config"]]
    if not valid:
        raise UsageError(f"{folder}: {found[0].document['config']['invalid']}")
    return valid


def _common_mode(checkpoints: list[Checkpoint]) -> Mode:
    modes = {c.document["config"]["mode"]: c.folder for c in checkpoints}
    if len(modes) > 1:
        found = ", ".join(f"{folder} ({mode})" for mode, folder in modes.items())
        raise UsageError(f"runs: expected one --compat mode, got {found}")
    return MODES[next(iter(modes))]


def _require_same_data(task: str, checkpoints: list[Checkpoint]) -> None:
    first = checkpoints[0]
    for other in checkpoints[1:]:
        hashes = [c.document["configs"][task]["data_sha256"] for c in (first, other)]
        if hashes[0] != hashes[1]:
            raise UsageError(f"{task}: {first.folder} and {other.folder} used different data")


def _choose(run: list[Checkpoint], column: Column, select: Select) -> Checkpoint:
    """The checkpoint that speaks for a run: of the least validation loss, the last, or, as in the
    paper, the best on the very items that are reported."""
    if len(run) == 1:
        return run[0]
    if select == "paper":
        lower = not run[0].document["higher_is_better"][column[0]][column[1]]
        return (min if lower else max)(run, key=lambda c: c.score(column))
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


def _scored(column: Column, seeds: list[Checkpoint], mode: Mode) -> Scored:
    task, metric = column
    runs = [read_predictions(checkpoint.folder, task) for checkpoint in seeds]
    _require_same_items(task, runs, seeds)
    if (choice := task_named(task)) is not None:
        return choices.scored(task, choice, runs, mode)
    if task == "reading":
        return reading.scored(metric, runs)
    if task == "perplexity":
        return perplexity.scored(metric, runs)
    from cdgen.eval.tasks import fine_tuning  # and Trainer: seconds to import

    return fine_tuning.scored(runs)


def _require_same_items(task: str, runs: list[list[Row]], seeds: list[Checkpoint]) -> None:
    items = [[(row["uid"], row["index"]) for row in rows] for rows in runs]
    for other, seed in zip(items, seeds, strict=True):
        if other != items[0]:
            raise UsageError(f"{task}: {seeds[0].folder} and {seed.folder} have different items")
