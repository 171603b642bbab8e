"""The tasks of `cdgen eval`: which exist, and how a folder of evaluation data becomes one.

To add a task that chooses between texts, add a row to `CHOICE_TASKS` in items.py; nothing else.
To add a zero-shot task of another kind:
1. Write a module beside this one, with a class that has the methods of `ZeroShotTask` and a
   function `scored` for `cdgen compare`. `perplexity.py` is the shortest example.
2. Here, add the name of its data folder to `_OTHERS`, and a branch to `load_task` and to `scored`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cdgen.checkpoints.config_checks import CONTEXT_KEYS
from cdgen.contained import is_plain_name
from cdgen.errors import UsageError
from cdgen.eval.modes import Mode
from cdgen.eval.scoring.spans import SpanEncoder, Spans
from cdgen.eval.statistics.comparison import Scored
from cdgen.eval.summary import Prediction, Summary
from cdgen.eval.tasks import choices, perplexity, reading
from cdgen.eval.tasks.choices import Choices
from cdgen.eval.tasks.items import CHOICE_TASKS, choice_task
from cdgen.eval.tasks.perplexity import Perplexity
from cdgen.eval.tasks.reading import Reading, read_words
from cdgen.storage import sha256_of

_OTHERS = ("reading", "perplexity")  # zero-shot tasks that do not choose between texts


class ZeroShotTask(Protocol):
    """The tokenized items of a task that a model is scored on as it is."""

    def predict(self, score: Callable[[Spans], np.ndarray], /) -> list[Prediction]:
        """Return one prediction per item, in the order of the data files."""

    def summary(self, predictions: list[Prediction], mode: Mode, /) -> Summary:
        """Return the scores; raises ValueError if they have no interval."""

    def collated(self, predictions: list[Prediction], /) -> dict[str, Any]:
        """Return each predictions.json of the BabyLM pipeline by its place in the results."""


def is_fine_tuned(name: str) -> bool:
    return name.startswith("glue")


def is_zero_shot(name: str) -> bool:
    return choice_task(name) is not None or name in _OTHERS


def parse_tasks(given: Sequence[str]) -> dict[str, str]:
    """Return the kind of each task, by the name of its data folder.

    A folder's name says what it holds, so NAME is its own kind; NAME=KIND declares that folder
    NAME holds what a folder called KIND would. Raises UsageError for an unknown or second kind.
    """
    kinds: dict[str, str] = {}
    for text in given:
        name, declared, kind = (part.strip() for part in text.partition("="))
        kind = kind if declared else name
        known = [*(f"{task.prefix}*" for task in CHOICE_TASKS), *_OTHERS, "glue*"]
        if not name or not (is_zero_shot(kind) or (is_fine_tuned(kind) and not declared)):
            raise UsageError(
                f"--tasks {text}: unknown; a task has its data folder's name, {', '.join(known)},"
                " or is declared, as in my_pairs=blimp"
            )
        if not is_plain_name(name) or kinds.setdefault(name, kind) != kind:
            raise UsageError(f"--tasks {text}: expected the name of one folder, of one kind")
    return kinds


def tasks_in(data: Path) -> tuple[list[str], dict[str, str]]:
    """Return the names of the zero-shot tasks that have a folder in `data`, and why each other
    folder is passed over."""
    try:
        folders = sorted(
            path.name for path in data.iterdir() if path.is_dir() and not path.name.startswith(".")
        )
    except OSError as error:
        raise UsageError(f"--data {data} cannot be read: {error.strerror}") from error
    names = [name for name in folders if is_zero_shot(name)]
    reasons = ("no task has a folder of this name", "fine-tuned only if --tasks names it")
    return names, {n: reasons[is_fine_tuned(n)] for n in folders if n not in names}


def where_tasks_are(data: Path) -> str:
    """Return advice if `data` is a level above or below the folders of tasks, or else what is
    expected."""
    below = sorted(
        path
        for pattern in ("*", "*/*")
        for path in data.glob(pattern)
        if path.is_dir() and any(is_zero_shot(p.name) for p in path.iterdir() if p.is_dir())
    )
    if is_zero_shot(data.resolve().name):
        below = [data.resolve().parent]
    if not below:
        return "expected the BabyLM layout"
    return f"did you mean --data {' or --data '.join(map(str, below))}?"


def load_task(name: str, kind: str, data: Path, encoder: SpanEncoder, mode: Mode) -> ZeroShotTask:
    """Read and tokenize a zero-shot task. Raises UsageError naming file and line."""
    folder = data / name
    if (choice := choice_task(kind)) is not None:
        return Choices.load(name, folder, choice, encoder)
    if kind == "reading":
        return Reading(read_words(folder / "reading_data.csv"), encoder, mode)
    return Perplexity.load(folder, encoder, mode)


def scored(kind: str, metric: str, runs: list[list[Prediction]], mode: Mode) -> Scored:
    """Return a method's runs of a task, one per seed, ready for comparison by `metric`."""
    if (choice := choice_task(kind)) is not None:
        return choices.scored(choice, runs, mode)
    if kind == "reading":
        return reading.scored(metric, runs)
    if kind == "perplexity":
        return perplexity.scored(metric, runs)
    from cdgen.eval.tasks import fine_tuning  # brings Trainer, which takes seconds to import

    return fine_tuning.scored(runs)


def context_length(config: dict[str, Any]) -> int | None:
    """Return the tokens of context that a model's config.json states."""
    return next((config[key] for key in CONTEXT_KEYS if config.get(key)), None)


def longest_text(config: dict[str, Any], mode: Mode) -> int | None:
    """Return how many tokens of a text a model with this config.json is given; None if any number.

    Rotary and relative positions run on past the length a model was trained for, and the BabyLM
    pipeline lets them; learned positions end.
    """
    positions = context_length(config)
    learned = not any(key in config for key in ("rope_parameters", "rope_theta", "rotary_pct"))
    return positions if learned or not mode.rotary_runs_on else None


def data_sha256(folder: Path, kind: str) -> str:
    """Hash the names and contents of the files in a task's folder, and the kind of the task unless
    the folder's name tells it."""
    digest = hashlib.sha256(b"" if kind == folder.name else f"={kind}\n".encode())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()
