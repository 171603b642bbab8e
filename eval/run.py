"""`cdgen eval`: every checkpoint on every task, in one process."""

from __future__ import annotations

import gc
import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from transformers import AutoConfig

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.device import choose_device
from cdgen.errors import CdgenError, ModelError, UsageError, one_line
from cdgen.eval.checkpoints import Named, find_checkpoints
from cdgen.eval.report.display import Display
from cdgen.eval.report.results import ResultFolder, make_room
from cdgen.eval.report.tables import write_tables
from cdgen.eval.scoring.scorer import InvalidModel, Scorer
from cdgen.eval.scoring.spans import SpanEncoder
from cdgen.eval.summary import MODES, Mode
from cdgen.eval.tasks.choices import Choices
from cdgen.eval.tasks.reading import Reading
from cdgen.eval.tasks.task_list import (
    Prepared,
    context_length,
    data_sha256,
    is_fine_tuned,
    longest_text,
    prepare,
    require_known,
    tasks_in,
)
from cdgen.storage import lock, make_folder, sha256_of


class EvalConfig(BaseModel):
    """What `cdgen eval` may be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[Path]
    data: Path
    out: Path
    tasks: list[str] = []  # none: every zero-shot task in `data`
    compat: Literal["default", "babylm2025", "paper"] = "default"
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass
class Outcome:
    folders: list[Path]
    skipped: dict[str, str] = field(default_factory=dict)  # tasks without data
    failed: dict[str, CdgenError] = field(default_factory=dict)  # tasks or checkpoints


def evaluate(config: EvalConfig) -> Outcome:
    """Scores what is not scored yet; a task or checkpoint that fails does not stop the others.

    Raises UsageError where there is nothing to do, and what a folder or model raises.
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
        run = _Run(config.data, tasks, mode, device, display, outcome)
        scored = 0
        for named, folder in zip(checkpoints, outcome.folders, strict=True):
            try:
                run.checkpoint(named, folder)
                scored += 1
            except ModelError as error:
                # Without its traceback, whose frames would keep the model in memory.
                outcome.failed[named.name] = error.with_traceback(None)
        # Where nothing could be scored, the tables of an earlier call stay.
        if scored or not (config.out / "results.md").exists():
            write_tables(config.out, outcome.folders)
    return outcome


def _folder(out: Path, named: Named, checkpoints: list[Named]) -> Path:
    # Beside the folders of several, a lone checkpoint's results in OUT itself would pass for the
    # run's.
    lone = len(checkpoints) == 1 and not any(out.glob("*/results.json"))
    return out if lone else out / named.name


def _tasks(config: EvalConfig, outcome: Outcome) -> dict[str, str]:
    """The tasks that have data, with its hash; the others are noted as skipped."""
    names = config.tasks or tasks_in(config.data)
    for name in names:
        require_known(name)
    for name in names:
        if not (config.data / name).is_dir():
            outcome.skipped[name] = f"{config.data / name} is not there"
    found = {n: data_sha256(config.data / n) for n in names if n not in outcome.skipped}
    if not found:
        wanted = f"none of {', '.join(names)}" if names else "no folder of a known task"
        raise UsageError(f"--data {config.data}: {wanted}; expected the BabyLM layout")
    return found


@dataclass
class _Tokenized:
    """The tasks as one tokenizer spells them: shared by all checkpoints that have it."""

    encoder: SpanEncoder
    tasks: dict[str, Prepared | CdgenError] = field(default_factory=dict)


@dataclass
class _Run:
    data: Path
    tasks: dict[str, str]  # name -> hash of the data
    mode: Mode
    device: str
    display: Display
    outcome: Outcome
    tokenized: dict[str, _Tokenized] = field(default_factory=dict)

    def checkpoint(self, named: Named, folder: Path) -> None:
        """Raises ModelError where the checkpoint cannot be scored."""
        checkpoint = open_checkpoint(named.folder)
        sha256, tokenizer = _identities(named.folder, checkpoint.sha256)
        results = ResultFolder.open(folder, named, sha256, self.mode)
        left = [task for task, data in self.tasks.items() if not results.has(task, data)]
        self.display.begin(named.name, len(self.tasks) - len(left), len(self.tasks))
        results.save()
        for task in filter(is_fine_tuned, left):
            self._fine_tune(task, named, results)
        if not (zero_shot := [task for task in left if not is_fine_tuned(task)]):
            return
        try:
            self._zero_shot(zero_shot, named, self._tokenizer(named, tokenizer), results)
        except InvalidModel as error:
            results.invalidate(str(error))
            raise
        finally:
            gc.collect()  # a model holds cycles: without it, two would be in memory at a time

    def _zero_shot(
        self, tasks: list[str], named: Named, tokenized: _Tokenized, results: ResultFolder
    ) -> None:
        scorer = Scorer(named.folder, self.device)
        results.document["config"]["prefix_token_ids"] = tokenized.encoder.prefix
        results.document["config"]["scored_along_tries"] = scorer.tree
        for task in tasks:
            self._score(task, tokenized, scorer, results)

    def _tokenizer(self, named: Named, identity: str) -> _Tokenized:
        try:
            config = AutoConfig.from_pretrained(named.folder).to_dict()
        except (ValueError, OSError, KeyError) as error:
            raise ModelError(f"{named.folder}/config.json: {one_line(error, 200)}") from error
        longest, window = longest_text(config, self.mode), context_length(config)
        key = f"{identity} {longest} {window}"
        if key not in self.tokenized:
            encoder = SpanEncoder(named.folder, not self.mode.pipeline_spans, longest, window)
            self.tokenized[key] = _Tokenized(encoder)
        return self.tokenized[key]

    def _prepared(self, task: str, tokenized: _Tokenized) -> Prepared | CdgenError:
        if task not in tokenized.tasks:
            try:
                prepared = prepare(task, self.data, tokenized.encoder, self.mode)
            except UsageError as error:
                tokenized.tasks[task] = self.outcome.failed[task] = error
            else:
                tokenized.tasks[task] = prepared
        return tokenized.tasks[task]

    def _score(
        self, task: str, tokenized: _Tokenized, scorer: Scorer, results: ResultFolder
    ) -> None:
        prepared = self._prepared(task, tokenized)
        if isinstance(prepared, CdgenError):
            results.drop(task)  # what the folder says of it was about other data
            results.save()
            return
        advance = self.display.task(task)
        rows = prepared.rows(lambda spans: scorer.span_sums(spans, advance))
        try:
            summary = prepared.summary(rows, self.mode)
        except ValueError:  # of the statistics, in their own words
            self.outcome.failed[task] = UsageError(
                f"{len(rows)} items give no score with an interval: too few, or all alike"
            )
            results.drop(task)
            results.save()
            return
        if isinstance(prepared, Choices):
            place = f"zero_shot/causal/{prepared.task.collate}/{task}"
            results.collate(place, prepared.collated(rows))
        elif isinstance(prepared, Reading):
            results.collate("zero_shot/causal/reading", prepared.collated(rows))
        results.add(task, self.tasks[task], rows, summary)
        self.display.finished(task, summary)

    def _fine_tune(self, task: str, named: Named, results: ResultFolder) -> None:
        from cdgen.eval.tasks.fine_tuning import fine_tune_all  # and Trainer: seconds to import

        try:
            rows, summary, collated = fine_tune_all(
                named.folder, self.data / task, self.device, self.mode, self.display.task(task)
            )
        except (UsageError, ModelError) as error:
            self.outcome.failed[f"{task} of {named.name}"] = error.with_traceback(None)
            return
        for name, predictions in collated.items():
            results.collate(f"finetune/{name}", predictions)
        results.add(task, self.tasks[task], rows, summary)
        self.display.finished(task, summary)


def _identities(folder: Path, weights: str) -> tuple[str, str]:
    """Hashes of the whole checkpoint and of its tokenizer alone. The files beside tokenizer.json
    count too: they say what BOS is, and whether it is added."""
    names = (
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
    )  # fmt: skip
    parts = [sha256_of(folder / name) for name in names if (folder / name).exists()]
    tokenizer = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return hashlib.sha256(f"{weights} {tokenizer}".encode()).hexdigest(), tokenizer
