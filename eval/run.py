"""`cdgen eval`: every checkpoint on every task, in one process."""

from __future__ import annotations

import gc
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.contained import links_below, require_contained
from cdgen.device import choose_device
from cdgen.errors import CdgenError, ModelError, UsageError
from cdgen.eval.checkpoints import (
    NamedCheckpoint,
    find_checkpoints,
    model_sha256,
    tokenizer_sha256,
)
from cdgen.eval.modes import MODES, Mode, ModeName
from cdgen.eval.report.display import Display
from cdgen.eval.report.results import ResultFolder, make_room
from cdgen.eval.report.tables import write_tables
from cdgen.eval.scoring.scorer import InvalidModel, Scorer
from cdgen.eval.summary import TaskResult
from cdgen.eval.tasks.task_list import (
    data_sha256,
    is_fine_tuned,
    parse_tasks,
    tasks_in,
    where_tasks_are,
)
from cdgen.eval.tasks.tokenized import TaskCache, TokenizedTasks
from cdgen.storage import lock, make_folder, remove_temporaries


class EvalConfig(BaseModel):
    """The settings of `cdgen eval`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[Path]
    data: Path
    out: Path
    # Names of folders of `data`, or NAME=KIND; if empty, every zero-shot task in `data`.
    tasks: list[str] = []
    compat: ModeName = "default"
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass
class Outcome:
    """The result folders of a run, in the order of its checkpoints, and what was not scored."""

    folders: list[Path]
    # Tasks without data, and folders without a task.
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, CdgenError] = field(default_factory=dict)  # tasks or checkpoints


def evaluate(config: EvalConfig) -> Outcome:
    """Score what is not scored yet; a task or checkpoint that fails does not stop the others.

    Raises UsageError if there is nothing to do, ModelError or StorageError for unusable folders.
    """
    mode, device = MODES[config.compat], choose_device(config.device)
    checkpoints = find_checkpoints(config.models)
    outcome = Outcome([_folder(config.out, named, checkpoints) for named in checkpoints])
    tasks = _tasks(config, outcome)
    make_folder(config.out)
    require_contained(config.out, links_below(config.out))
    with ExitStack() as held:
        busy = f"another cdgen eval writes to {config.out}: wait for it, or name another --out"
        held.enter_context(lock(config.out / ".lock", busy))
        remove_temporaries(config.out)
        if len(checkpoints) > 1:
            make_room(config.out)
        display = held.enter_context(Display(len(checkpoints)))
        tokenized = TaskCache(config.data, mode)
        evaluation = _Evaluation(tasks, tokenized, mode, device, display, outcome)
        scored = evaluation.run(checkpoints)
        # A call that scored nothing leaves the tables of an earlier one.
        if scored or not (config.out / "results.md").exists():
            write_tables(config.out, outcome.folders)
    return outcome


def _folder(out: Path, named: NamedCheckpoint, checkpoints: list[NamedCheckpoint]) -> Path:
    # Beside the folders of several checkpoints, results in OUT itself would pass for the run's.
    alone = len(checkpoints) == 1 and not any(out.glob("*/results.json"))
    return out if alone else out / named.name


@dataclass(frozen=True)
class _Task:
    """A task that has data."""

    name: str  # of its folder
    kind: str  # the name itself, unless --tasks declares another
    data_sha256: str


def _tasks(config: EvalConfig, outcome: Outcome) -> list[_Task]:
    """Return the tasks that have data; note the others as skipped."""
    names = config.tasks
    if not names:
        names, outcome.skipped = tasks_in(config.data)
    kinds = parse_tasks(names)
    for name in kinds:
        if not (config.data / name).is_dir():
            outcome.skipped[name] = f"{config.data / name} is not there"
    found = [
        _Task(name, kind, data_sha256(config.data / name, kind))
        for name, kind in kinds.items()
        if name not in outcome.skipped
    ]
    if not found:
        wanted = f"none of {', '.join(kinds)}" if names else "no folder of a known task"
        raise UsageError(f"--data {config.data}: {wanted}; {where_tasks_are(config.data)}")
    return found


@dataclass
class _Evaluation:
    """The state that the checkpoints of one call of `evaluate` share."""

    tasks: list[_Task]
    tokenized: TaskCache
    mode: Mode
    device: str
    display: Display
    outcome: Outcome

    def run(self, checkpoints: list[NamedCheckpoint]) -> int:
        """Score the checkpoints in turn; return how many could be scored."""
        scored = 0
        for named, folder in zip(checkpoints, self.outcome.folders, strict=True):
            try:
                self._checkpoint(named, folder)
                scored += 1
            except ModelError as error:
                # The frames of its traceback would keep the model in memory.
                self.outcome.failed[named.name] = error.with_traceback(None)
        return scored

    def _checkpoint(self, named: NamedCheckpoint, folder: Path) -> None:
        """Score a checkpoint on the tasks that are left. Raises ModelError if it cannot be."""
        checkpoint, tokenizer = open_checkpoint(named.folder), tokenizer_sha256(named.folder)
        for note in checkpoint.notes:
            print(note, file=sys.stderr)
        identity = model_sha256(checkpoint.sha256, tokenizer)
        results = ResultFolder.open(folder, named, identity, self.mode)
        left = [task for task in self.tasks if not results.has(task.name, task.data_sha256)]
        self.display.begin(named.name, len(self.tasks) - len(left), len(self.tasks))
        results.save()
        for task in left:
            if is_fine_tuned(task.kind):
                self._fine_tune(task, named, results)
        if not (zero_shot := [task for task in left if not is_fine_tuned(task.kind)]):
            return
        try:
            self._zero_shot(zero_shot, named, tokenizer, results)
        except InvalidModel as error:
            results.invalidate(str(error))
            raise
        finally:
            gc.collect()  # a model holds cycles: without this, two would be in memory

    def _zero_shot(
        self, left: list[_Task], named: NamedCheckpoint, tokenizer: str, results: ResultFolder
    ) -> None:
        tasks = self.tokenized.of(named.folder, tokenizer)
        scorer = Scorer(named.folder, self.device)
        results.document["config"]["prefix_token_ids"] = tasks.encoder.prefix
        results.document["config"]["scored_along_tries"] = scorer.tree
        for task in left:
            self._score(task, tasks, scorer, results)

    def _score(
        self, task: _Task, tasks: TokenizedTasks, scorer: Scorer, results: ResultFolder
    ) -> None:
        loaded = tasks.load(task.name, task.kind)
        if isinstance(loaded, UsageError):
            self._fail(task.name, loaded, results)
            return
        advance = self.display.task(task.name)
        try:
            predictions = loaded.predict(lambda spans: scorer.span_sums(spans, advance))
        except UsageError as error:
            self._fail(task.name, error, results)
            return
        try:
            summary = loaded.summary(predictions, self.mode)
        except ValueError:  # its message speaks of statistics, not of the user's data
            text = f"{len(predictions)} items give no score with an interval: too few, or all alike"
            self._fail(task.name, UsageError(text), results)
            return
        kind = task.kind if task.kind != task.name else None
        result = TaskResult(predictions, summary, loaded.collated(predictions), kind)
        self._add(task, result, results)

    def _add(self, task: _Task, result: TaskResult, results: ResultFolder) -> None:
        results.add(task.name, task.data_sha256, result)
        self.display.finished(task.name, result.summary)

    def _fail(self, name: str, error: UsageError, results: ResultFolder) -> None:
        self.outcome.failed[name] = error
        results.drop(name)  # a score that is there came from other data
        results.save()

    def _fine_tune(self, task: _Task, named: NamedCheckpoint, results: ResultFolder) -> None:
        from cdgen.eval.tasks.fine_tuning import fine_tune_all  # Trainer takes seconds to import

        try:
            data, advance = self.tokenized.data / task.name, self.display.task(task.name, "parts")
            result = fine_tune_all(named.folder, data, self.device, self.mode, advance)
        except (UsageError, ModelError) as error:
            self.outcome.failed[f"{task.name} of {named.name}"] = error.with_traceback(None)
            return
        self._add(task, result, results)
