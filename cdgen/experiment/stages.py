"""The stages of an experiment: each a command of cdgen, what it needs, and how its end is seen.

A command recognises its own finished work, but only after some seconds of imports. `run` therefore
looks for the file that each command writes last.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cdgen.experiment.bad_choice import BadChoice, parse_bad_choice
from cdgen.experiment.layout import Layout, Student, result_files, students_of
from cdgen.experiment.recipe import BASELINE, Arm, Corpora, RunRecipe
from cdgen.experiment.student_recipes import base_recipe, smaller_recipe, student_recipe
from cdgen.experiment.tasks import (
    PERPLEXITY,
    folder_of_task,
    prepare_tasks,
    tasks_are_there,
)
from cdgen.train.config import Recipe

Command = tuple[str, ...]  # the arguments after `cdgen`


@dataclass(frozen=True)
class Stage:
    """One command, and what it takes and leaves."""

    name: str
    command: Command
    needs: tuple[str, ...]  # names of stages
    place: Path  # the folder or file that it writes
    is_done: Callable[[], bool]
    recipe: Recipe | None = None  # of `cdgen train`, to be written before
    recipe_file: Path | None = None  # where
    action: Callable[[], None] | None = None  # done by `run` itself
    made_from: Callable[[], list[Path]] = list  # files that its own, `place`, must be as new as

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]

    def date_result(self) -> None:
        """Date the result no earlier than what it was made from, once the stage has succeeded: a
        wrong clock may have dated that in the future."""
        newest = _newest(self.made_from())
        if self.place.is_file() and self.place.stat().st_mtime_ns < newest:
            os.utime(self.place, ns=(newest, newest))


@dataclass(frozen=True)
class Plan:
    """Builds the stages of a recipe in the order in which they are begun."""

    recipe: RunRecipe
    data: Path
    layout: Layout
    again: Command  # this very `cdgen run`, for the stage that no other command does

    def stages(self) -> list[Stage]:
        return [
            self._train("base", base_recipe(self.recipe), self.layout.base),
            *self._smaller(),
            self._tasks(),
            *self._pairs(),
            *(self._corpus(name, arm) for name, arm in self.recipe.arms.items()),
            *self._students(),
            *(self._measure(name) for name in self.recipe.arms),
            *(self._scores(student) for student in students_of(self.recipe)),
            self._compare(),
            self._report(),
        ]

    def _train(self, name: str, recipe: Recipe, run: Path, needs: tuple[str, ...] = ()) -> Stage:
        config = self.layout.train_recipe(name.removeprefix("student-"))
        command = ("train", "--config", str(config), "--data", str(self.data), "--out", str(run))
        last = _checkpoint(run, recipe.total_steps) / "complete.json"
        ends = (last, run / "budget.md")  # the budget is written last
        done = partial(_are_files, ends)
        return Stage(name, command, needs, run, done, recipe, recipe_file=config)

    def _smaller(self) -> Iterator[Stage]:
        for name, shape in self.recipe.smaller.items():
            recipe = smaller_recipe(self.recipe, name, shape, self.layout)
            yield self._train(f"smaller-{name}", recipe, self.layout.smaller(name), ("base",))

    def _tasks(self) -> Stage:
        needs = ("base",) if PERPLEXITY in self.recipe.evaluation.tasks else ()
        wanted = self.recipe.evaluation
        return Stage(
            "tasks",
            (*self.again, "--only", "tasks"),
            needs,
            self.layout.tasks,
            is_done=partial(tasks_are_there, wanted, self.layout),
            action=partial(prepare_tasks, wanted, self.data, self.layout),
        )

    def _pairs(self) -> Iterator[Stage]:
        gaps = dict.fromkeys(bad.value for bad in self._bads() if bad.kind == "gap")
        for gap in gaps:
            file = self.layout.pair(gap)
            base = str(self.layout.base)
            command = ("train", "--select-pair", base, "--gap", gap, "--out", str(file))
            yield Stage(f"pair-gap-{gap}", command, ("base",), file, file.is_file)

    def _bads(self) -> Iterator[BadChoice]:
        for arm in self.recipe.arms.values():
            if arm.bad is not None:
                yield parse_bad_choice(arm.bad)

    def _corpus(self, name: str, arm: Arm) -> Stage:
        models, needs = self.models_of(arm)
        shared, out = self.recipe.corpora, self.layout.corpus(name)
        command = (
            "generate",
            *models,
            *("--prompts", str(self.layout.base / "prompts.jsonl")),
            *("--strategy", arm.strategy),
            *_sampling(arm),
            *("--prompt-tokens", str(shared.prompt_tokens)),
            *("--num-sequences", str(shared.num_sequences)),
            *("--max-new-tokens", str(shared.max_new_tokens)),
            *("--on-eos", shared.on_eos),
            *_masked_score(shared),
            *("--seed", str(shared.seed)),
            *("--out", str(out)),
        )
        return Stage(f"corpus-{name}", command, needs, out, (out / "manifest.json").is_file)

    def models_of(self, arm: Arm) -> tuple[Command, tuple[str, ...]]:
        """Return the flags that name GOOD and BAD, and the stages that make them."""
        good, needs = self._good()
        if arm.bad is None:
            return (*good, "--bad", "none"), needs
        bad = parse_bad_choice(arm.bad)
        if bad.kind == "gap":
            return ("--pair", str(self.layout.pair(bad.value))), (f"pair-gap-{bad.value}",)
        if bad.kind == "small":
            steps = self.recipe.good if isinstance(self.recipe.good, int) else None
            folder = _checkpoint(self.layout.smaller(bad.value), steps or self._last_step)
            return (*good, "--bad", str(folder)), (*needs, f"smaller-{bad.value}")
        if bad.kind == "step":
            return (*good, "--bad", str(_checkpoint(self.layout.base, bad.step))), needs
        return (*good, "--bad", bad.value), needs

    def _good(self) -> tuple[Command, tuple[str, ...]]:
        if isinstance(self.recipe.good, int):
            return ("--good", str(_checkpoint(self.layout.base, self.recipe.good))), ("base",)
        gap = next(bad.value for bad in self._bads() if bad.kind == "gap")
        return ("--pair", str(self.layout.pair(gap))), (f"pair-gap-{gap}",)

    @property
    def _last_step(self) -> int:
        return self.recipe.base.total_steps

    def _students(self) -> Iterator[Stage]:
        for student in students_of(self.recipe):
            run = self.layout.student(student, self.recipe.base.seed)
            if run != self.layout.base:
                corpus = () if student.arm == BASELINE else (f"corpus-{student.arm}",)
                recipe = student_recipe(self.recipe, student, self.layout)
                yield self._train(f"student-{student.name}", recipe, run, ("base", *corpus))

    def _measure(self, arm: str) -> Stage:
        """Let GOOD judge its own corpus: that shows where truncation acted, too."""
        file, corpus = self.layout.measure(arm), str(self.layout.corpus(arm))
        models, _ = self.models_of(self.recipe.arms[arm])
        pair = ("--judge" if flag == "--good" else flag for flag in models)
        texts = [arg for path in self._texts() for arg in ("--training", str(path))]
        command = ("measure", corpus, *texts, *pair, "--out", str(file))
        return Stage(f"measure-{arm}", command, (f"corpus-{arm}",), file, file.is_file)

    def _texts(self) -> Iterator[Path]:
        """Yield the files of the training text that `cdgen measure` can read as they are."""
        for source in self.recipe.base.sources:
            if source.text_column == "text":
                yield self.data / source.path

    def _scores(self, student: Student) -> Stage:
        run, out = self.layout.student(student, self.recipe.base.seed), self.layout.scores(student)
        wanted, steps = self.recipe.evaluation, self._checkpoint_steps(student)
        if wanted.checkpoint == "last":
            model, files = _checkpoint(run, steps[-1]), [out / "results.json"]
        else:
            model, files = run, [out / f"checkpoint-{step}" / "results.json" for step in steps]
        command = (
            *("eval", "--model", str(model), "--data", str(self.layout.tasks)),
            *("--tasks", ",".join(wanted.tasks), "--compat", wanted.compat, "--out", str(out)),
        )
        maker = "base" if run == self.layout.base else f"student-{student.name}"
        done = partial(_are_scored, files, out / "curve.csv", wanted.tasks)
        return Stage(f"eval-{student.name}", command, (maker, "tasks"), out, done)

    def _checkpoint_steps(self, student: Student) -> list[int]:
        recipe = student_recipe(self.recipe, student, self.layout)
        every, last = recipe.training.checkpoint_every, recipe.total_steps
        return [*range(every, last, every), last]

    def _compare(self) -> Stage:
        methods: dict[str, list[Path]] = {}
        for student in students_of(self.recipe):
            methods.setdefault(student.method, []).append(self.layout.scores(student))
        runs = (f"{name}={','.join(map(str, found))}" for name, found in methods.items())
        select = self.recipe.evaluation.checkpoint
        rule = () if select == "last" else ("--select", select)
        out, file = self.layout.compare, self.layout.compare / "compare.json"
        command = ("compare", *runs, "--baseline", BASELINE, *rule, "--out", str(out))
        needs = tuple(f"eval-{student.name}" for student in students_of(self.recipe))
        scores = [self.layout.scores(student) for student in students_of(self.recipe)]
        counts = {name: len(found) for name, found in methods.items()}
        made_from = partial(_result_files, scores)
        done = partial(_compared, file, counts, made_from)
        return Stage("compare", command, needs, file, done, made_from=made_from)

    def _report(self) -> Stage:
        page, compared = self.layout.out / "report.html", self.layout.compare / "compare.json"
        measures = [self.layout.measure(arm) for arm in self.recipe.arms]
        needs = ("compare", *(f"measure-{arm}" for arm in self.recipe.arms))
        made_from = [compared, *measures]
        done, command = partial(_newer, page, made_from), ("report", str(self.layout.out))
        return Stage("report", command, needs, page, done, made_from=lambda: made_from)


def shown_command(stage: Stage) -> str:
    """Return the command as one types it into a shell."""
    return shlex.join(("cdgen", *stage.command))


def _sampling(arm: Arm) -> Command:
    """Return the flags of the sampler that are not at their defaults."""
    contrast, temperature = arm.contrast, arm.temperature
    if arm.beta is not None:  # O'Brien & Lewis 2023, as contrast and temperature
        contrast = arm.beta / (1 + arm.beta)
        temperature = arm.temperature / (1 + arm.beta)
    flags = {
        "--contrast": contrast,
        "--alpha": arm.alpha,
        "--temperature": temperature if temperature != 1 else None,
        "--top-k": arm.top_k or None,
        "--top-p": arm.top_p if arm.top_p != 1 else None,
        "--min-p": arm.min_p or None,
    }
    return tuple(p for name, v in flags.items() if v is not None for p in (name, repr(v)))


def _masked_score(corpora: Corpora) -> Command:
    given = corpora.masked_score
    return () if given is None else ("--masked-score", repr(given))


def _checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"checkpoint-{step}"


def _are_files(paths: Sequence[Path]) -> bool:
    return all(path.is_file() for path in paths)


def _are_scored(results: Sequence[Path], curve: Path, tasks: Sequence[str]) -> bool:
    """Return whether each results.json of `cdgen eval` holds a score of every task, and so does
    the table that it writes last."""
    found = [_json(path).get("results", {}) for path in results]
    found.append(_tasks_of_curve(curve))
    return all(folder_of_task(task) in scores for scores in found for task in tasks)


def _tasks_of_curve(path: Path) -> set[str]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["task"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error):
        return set()


def _result_files(scores: Sequence[Path]) -> list[Path]:
    return [path for folder in scores for path in result_files(folder)]


def _compared(file: Path, counts: dict[str, int], made_from: Callable[[], list[Path]]) -> bool:
    """Return whether compare.json is of these methods and as new as every score."""
    return _json(file).get("methods") == counts and _newer(file, made_from())


def _newer(file: Path, others: list[Path]) -> bool:
    """Return whether `file` is there and as new as the others, which need not exist."""
    return file.is_file() and file.stat().st_mtime_ns >= _newest(others)


def _newest(files: list[Path]) -> int:
    """Return the latest time of the files that are there, in ns."""
    return max((file.stat().st_mtime_ns for file in files if file.is_file()), default=0)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
