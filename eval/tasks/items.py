"""The items of the BabyLM tasks: what each line of a data file asks a model to choose between.

Fields, spans and sub-tasks are those of babylm/evaluation-pipeline-2025 (sentence_zero_shot).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdgen.errors import UsageError

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One choice. The first candidate is the right one (WUG has none: there, the first listed)."""

    uid: str  # the sub-task that it is averaged in
    candidates: tuple[str, ...]  # whole texts
    starts: tuple[int, ...]  # the character of each from which on tokens count
    answers: tuple[str, ...]  # the candidates as a predictions file of the pipeline spells them
    human: float = math.nan  # WUG: the share of people who chose the first
    labels: dict[str, str] = field(default_factory=dict)  # further groups: BLiMP's fields and terms


def _text(row: Row, field: str) -> str:
    """A field that must be text, and such as a tokenizer takes: no half of a surrogate pair."""
    value = row[field]
    if not isinstance(value, str):
        raise TypeError(f"{field}: expected text, got {value!r:.40}")
    value.encode()
    return value


def _candidate(row: Row, field: str) -> str:
    """A text that is scored: an empty one would be the likeliest of all."""
    if not (text := _text(row, field)).strip():
        raise ValueError(f"{field}: expected text, got {text!r}")
    return text


def _whole(
    uid: str, texts: tuple[str, ...], human: float = math.nan, labels: dict[str, str] | None = None
) -> Item:
    return Item(uid, texts, (0,) * len(texts), texts, human, labels or {})


_BLIMP_LABELS: tuple[str, ...] = ("field", "linguistics_term")


def _blimp(row: Row, stem: str) -> Item:
    uid = _text(row, "UID") if "field" in row else stem
    labels = {key: _text(row, key) for key in _BLIMP_LABELS if key in row}
    if labels.get("field") == "syntax_semantics":  # the data spell it both ways
        labels["field"] = "syntax/semantics"
    texts = (_candidate(row, "sentence_good"), _candidate(row, "sentence_bad"))
    return _whole(uid, texts, labels=labels)


def _ewok(row: Row, stem: str) -> Item:
    context, targets = (
        _text(row, "Context1"),
        (_candidate(row, "Target1"), _candidate(row, "Target2")),
    )
    texts = tuple(f"{context} {target}" for target in targets)
    # The pipeline's completion is " " + target: the span begins with the space.
    return Item(_text(row, "Domain"), texts, (len(context),) * 2, tuple(f" {t}" for t in targets))


def _entity_tracking(row: Row, stem: str) -> Item:
    prefix, options = _text(row, "input_prefix"), row["options"]
    if not isinstance(options, list) or len(options) < 2:
        raise TypeError(f"options: expected a list of two or more texts, got {options!r:.40}")
    options = tuple(_candidate({"options": option}, "options") for option in options)
    texts = tuple(prefix + option for option in options)
    uid = f"{stem}_{int(row['numops'])}_ops"
    return Item(uid, texts, (len(prefix),) * len(options), options, labels={"split": stem})


_COMPS_UIDS = {
    "comps_base": "base",
    "comps_wugs": "wugs",
    "comps_wugs_dist-before": "wugs_dist_before",
    "comps_wugs_dist-in-between": "wugs_dist_in_between",
}


def _comps(row: Row, stem: str) -> Item:
    prefixes = (_text(row, "prefix_acceptable"), _text(row, "prefix_unacceptable"))
    texts = tuple(f"{prefix} {_candidate(row, 'property_phrase')}" for prefix in prefixes)
    starts = tuple(len(prefix) + 1 for prefix in prefixes)
    return Item(_COMPS_UIDS.get(stem, stem), texts, starts, texts)


def _wug(uid: str) -> Callable[[Row, str], Item]:
    def read(row: Row, stem: str) -> Item:
        forms = _candidate(row, "sentences").split("\t")
        if len(forms) != 2 or not all(form.strip() for form in forms):
            raise ValueError(f"sentences: expected two texts with a tab between, got {len(forms)}")
        if not math.isfinite(ratio := float(row["ratio"])):
            raise ValueError(f"ratio: expected a number, got {ratio}")
        return _whole(uid, (forms[0], forms[1]), human=ratio)

    return read


@dataclass(frozen=True)
class Task:
    """A task by the beginning of its folder's name."""

    prefix: str
    read: Callable[[Row, str], Item]
    collate: str  # the folder of the pipeline's results that its predictions belong in
    metric: str = "acc"  # or "spearman"


TASKS = (
    Task("blimp", _blimp, "blimp"),
    Task("supplement", _blimp, "blimp"),
    Task("ewok", _ewok, "ewok"),
    Task("entity_tracking", _entity_tracking, "entity_tracking"),
    Task("comps", _comps, "comps"),
    Task("wug_adj", _wug("wug_adj"), "wug_adj", "spearman"),
    Task("wug_past", _wug("wug_past"), "wug_past", "spearman"),
)


def task_named(name: str) -> Task | None:
    """The choice task of a folder such as `blimp_fast`; None if it is of another kind."""
    return next((task for task in TASKS if name.startswith(task.prefix)), None)


def read_items(folder: Path, task: Task) -> list[Item]:
    """The items of every .jsonl file, files by name. Raises UsageError naming file and line."""
    items = []
    for path in sorted(folder.glob("[!.]*.jsonl")):
        for number, row in json_lines(path):
            try:
                item = task.read(row, path.stem)
            except KeyError as error:
                raise UsageError(f"{path}, line {number}: no field {error}") from error
            except (TypeError, ValueError, OverflowError) as error:
                raise UsageError(f"{path}, line {number}: {error}") from error
            items.append(item)
    if not items:
        raise UsageError(f"{folder}: expected .jsonl files with one item per line, found none")
    return items


def json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """Numbered JSON objects. Raises UsageError naming file and line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: no JSON in UTF-8 ({error})") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: expected an object, got {row!r:.40}")
        yield number, row
