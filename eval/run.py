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
from cdgen.device import choose_device
from cdgen.errors import CdgenError, ModelError, UsageError
from cdgen.eval.checkpoints import (
    NamedCheckpoint,
    find_checkpoints,
    model_sha256,
    tokenizer_sha256,
)
from cdgen.eval.modes import MODES, Mode
from cdgen.eval.report.display import Display
from cdgen.eval.report.results import ResultFolder, make_room
from cdgen.eval.report.tables import write_tables
from cdgen.eval.scoring.scorer import InvalidModel, Scorer
from cdgen.eval.summary import TaskResult
from cdgen.eval.tasks.task_list import (
    data_sha256,
    is_fine_tuned,
    require_known,
    tasks_in,
    where_tasks_are,
)
from cdgen.eval.tasks.tokenized import TaskCache, TokenizedTasks
from cdgen.storage import lock, make_folder


class EvalConfig(BaseModel):
    """The settings of `cdgen eval`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[Path]
    data: Path
    out: Path
    tasks: list[str] = []  # if empty, every zero-shot task in `data`
    compat: Literal["default", "babylm2025", "paper"] = "default"
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
    with ExitStack() as held:
        busy = f"another cdgen eval writes to {config.out}: wait for it, or name another --out"
        held.enter_context(lock(config.out / ".lock", busy))
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


def _tasks(config: EvalConfig, outcome: Outcome) -> dict[str, str]:
    """Return the hash of the data of every task that has any; note the others as skipped."""
    names = config.tasks
    if not names:
        names, outcome.skipped = tasks_in(config.data)
    for name in names:
        require_known(name)
    for name in names:
        if not (config.data / name).is_dir():
            outcome.skipped[name] = f"{config.data / name} is not there"
    found = {n: data_sha256(config.data / n) for n in names if n not in outcome.skipped}
    if not found:
        wanted = f"none of {', '.join(names)}" if names else "no folder of a known task"
        raise UsageError(f"--data {config.data}: {wanted}; {where_tasks_are(config.data)}")
    return found


@dataclass
class _Evaluation:
    """The state that the checkpoints of one call of `evaluate` share."""

    tasks: dict[str, str]  # name -> hash of its data
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
        left = [task for task, data in self.tasks.items() if not results.has(task, data)]
        self.display.begin(named.name, len(self.tasks) - len(left), len(self.tasks))
        results.save()
        for task in filter(is_fine_tuned, left):
            self._fine_tune(task, named, results)
        if not (zero_shot := [task for task in left if not is_fine_tuned(task)]):
            return
        try:
            self._zero_shot(zero_shot, named, tokenizer, results)
        except InvalidModel as error:
            results.invalidate(str(error))
            raise
        finally:
            gc.collect()  # a model holds cycles: without this, two would be in memory

    def _zero_shot(
        self, names: list[str], named: NamedCheckpoint, tokenizer: str, results: ResultFolder
    ) -> None:
        tasks = self.tokenized.of(named.folder, tokenizer)
        scorer = Scorer(named.folder, self.device)
        results.document["config"]["prefix_token_ids"] = tasks.encoder.prefix
        results.document["config"]["scored_along_tries"] = scorer.tree
        for name in names:
            self._score(name, tasks, scorer, results)

    def _score(
        self, name: str, tasks: TokenizedTasks, scorer: Scorer, results: ResultFolder
    ) -> None:
        task = tasks.load(name)
        if isinstance(task, UsageError):
            self._fail(name, task, results)
            return
        advance = self.display.task(name)
        try:
            predictions = task.predict(lambda spans: scorer.span_sums(spans, advance))
        except UsageError as error:
            self._fail(name, error, results)
            return
        try:
            summary = task.summary(predictions, self.mode)
        except ValueError:  # its message speaks of statistics, not of the user's data
            text = f"{len(predictions)} items give no score with an interval: too few, or all alike"
            self._fail(name, UsageError(text), results)
            return
        self._add(name, TaskResult(predictions, summary, task.collated(predictions)), results)

    def _add(self, name: str, result: TaskResult, results: ResultFolder) -> None:
        results.add(name, self.tasks[name], result)
        self.display.finished(name, result.summary)

    def _fail(self, name: str, error: UsageError, results: ResultFolder) -> None:
        self.outcome.failed[name] = error
        results.drop(name)  # a score that is there came from other data
        results.save()

    def _fine_tune(self, name: str, named: NamedCheckpoint, results: ResultFolder) -> None:
        from cdgen.eval.tasks.fine_tuning import fine_tune_all  # Trainer takes seconds to import

        try:
            data, advance = self.tokenized.data / name, self.display.task(name)
            result = fine_tune_all(named.folder, data, self.device, self.mode, advance)
        except (UsageError, ModelError) as error:
            self.outcome.failed[f"{name} of {named.name}"] = error.with_traceback(None)
            return
        self._add(name, result, results)
