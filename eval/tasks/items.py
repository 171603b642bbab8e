"""The choice tasks of BabyLM, and how a line of a data file becomes an item.

Fields, spans and sub-tasks are those of babylm/evaluation-pipeline-2025 (sentence_zero_shot).
To add a choice task, write a function from a line to an `Item` and add a row to `CHOICE_TASKS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdgen.corpus.json_values import json_values
from cdgen.corpus.text_files import is_json_document, kind_of, stem_of
from cdgen.errors import UsageError

Line = dict[str, Any]  # the JSON object on one line of a data file


@dataclass(frozen=True)
class Item:
    """One choice. The first candidate is the right one; in WUG, which has no right answer, it is
    the first of the two forms."""

    uid: str  # the sub-task that the item belongs to
    candidates: tuple[str, ...]  # whole texts
    starts: tuple[int, ...]  # character of each candidate at which scoring begins
    answers: tuple[str, ...]  # the candidates as the pipeline spells them in predictions.json
    human: float = math.nan  # WUG: the share of people who chose the first form
    labels: dict[str, str] = field(default_factory=dict)  # further groups: BLiMP's fields and terms


def _text(line: Line, name: str) -> str:
    """Return a field that must be text. Half a surrogate pair, which no tokenizer takes, raises."""
    value = line[name]
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected text, got {value!r:.40}")
    value.encode()
    return value


def _candidate(line: Line, name: str) -> str:
    """Return a text to be scored. An empty one, which would be the likeliest of all, raises."""
    if not (text := _text(line, name)).strip():
        raise ValueError(f"{name}: expected text, got {text!r}")
    return text


_BLIMP_LABELS: tuple[str, ...] = ("field", "linguistics_term")


def _blimp(line: Line, stem: str) -> Item:
    uid = _text(line, "UID") if "field" in line else stem
    labels = {key: _text(line, key) for key in _BLIMP_LABELS if key in line}
    if labels.get("field") == "syntax_semantics":  # the data spell it both ways
        labels["field"] = "syntax/semantics"
    texts = (_candidate(line, "sentence_good"), _candidate(line, "sentence_bad"))
    return Item(uid, texts, (0, 0), texts, labels=labels)


def _ewok(line: Line, stem: str) -> Item:
    context = _text(line, "Context1")
    # The pipeline's completion is " " + target: the span begins with the space.
    answers = tuple(f" {_candidate(line, name)}" for name in ("Target1", "Target2"))
    texts = tuple(context + answer for answer in answers)
    return Item(_text(line, "Domain"), texts, (len(context),) * 2, answers)


def _entity_tracking(line: Line, stem: str) -> Item:
    prefix, options = _text(line, "input_prefix"), line["options"]
    if not isinstance(options, list) or len(options) < 2:
        raise TypeError(f"options: expected a list of two or more texts, got {options!r:.40}")
    options = tuple(_candidate({"options": option}, "options") for option in options)
    texts = tuple(prefix + option for option in options)
    uid = f"{stem}_{int(line['numops'])}_ops"
    return Item(uid, texts, (len(prefix),) * len(options), options, labels={"split": stem})


_COMPS_UIDS = {
    "comps_base": "base",
    "comps_wugs": "wugs",
    "comps_wugs_dist-before": "wugs_dist_before",
    "comps_wugs_dist-in-between": "wugs_dist_in_between",
}


def _comps(line: Line, stem: str) -> Item:
    prefixes = (_text(line, "prefix_acceptable"), _text(line, "prefix_unacceptable"))
    texts = tuple(f"{prefix} {_candidate(line, 'property_phrase')}" for prefix in prefixes)
    starts = tuple(len(prefix) + 1 for prefix in prefixes)
    return Item(_COMPS_UIDS.get(stem, stem), texts, starts, texts)


def _wug(uid: str) -> Callable[[Line, str], Item]:
    def read(line: Line, stem: str) -> Item:
        forms = tuple(_candidate(line, "sentences").split("\t"))
        if len(forms) != 2 or not all(form.strip() for form in forms):
            raise ValueError(f"sentences: expected two texts with a tab between, got {len(forms)}")
        if not math.isfinite(ratio := float(line["ratio"])):
            raise ValueError(f"ratio: expected a number, got {ratio}")
        return Item(uid, forms, (0, 0), forms, human=ratio)

    return read


@dataclass(frozen=True)
class ChoiceTask:
    """A task whose items are choices between texts."""

    prefix: str  # the beginning of its data folder's name
    read: Callable[[Line, str], Item]  # takes a line and the stem of its file's name
    pipeline_folder: str  # the folder of the pipeline's results that holds its predictions
    metric: str = "acc"  # or "spearman"
    files_weigh_alike: bool = False  # average sub-tasks within their file, then the files


CHOICE_TASKS = (
    ChoiceTask("blimp", _blimp, "blimp"),
    ChoiceTask("supplement", _blimp, "blimp"),
    ChoiceTask("ewok", _ewok, "ewok"),
    ChoiceTask("entity_tracking", _entity_tracking, "entity_tracking", files_weigh_alike=True),
    ChoiceTask("comps", _comps, "comps"),
    ChoiceTask("wug_adj", _wug("wug_adj"), "wug_adj", "spearman"),
    ChoiceTask("wug_past", _wug("wug_past"), "wug_past", "spearman"),
)


def choice_task(name: str) -> ChoiceTask | None:
    """Return the choice task of a folder such as `blimp_fast`; None if it holds another kind."""
    return next((task for task in CHOICE_TASKS if name.startswith(task.prefix)), None)


def read_items(folder: Path, task: ChoiceTask) -> list[Item]:
    """Return the items of all .jsonl files, compressed or not, in the order of the files' names.

    Raises UsageError naming file and line.
    """
    items = []
    for path in sorted(path for path in folder.iterdir() if _is_lines_file(path)):
        for number, line in json_lines(path):
            try:
                item = task.read(line, stem_of(path.name))
            except KeyError as error:
                raise UsageError(f"{path}, line {number}: no field {error}") from error
            except (TypeError, ValueError, OverflowError) as error:
                raise UsageError(f"{path}, line {number}: {error}") from error
            items.append(item)
    if not items:
        raise UsageError(f"{folder}: expected .jsonl files with one item per line, found none")
    return items


def _is_lines_file(path: Path) -> bool:
    return (
        kind_of(path.name) == "json"
        and not is_json_document(path.name)
        and not path.name.startswith(".")
    )


def json_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """Yield the JSON objects of a file with their line numbers; blank lines are skipped.

    Raises UsageError naming file and line.
    """
    for place, number, line in json_values(path):
        if not isinstance(line, dict):
            raise UsageError(f"{place}: expected an object, got {line!r:.40}")
        yield number, line
