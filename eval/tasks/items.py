"""The choice tasks, and how a line of a data file becomes an item.

Fields, spans and sub-tasks are those of babylm/evaluation-pipeline-2025 (sentence_zero_shot), and
for other languages those of MultiBLiMP 1.0 (Jumelet et al. 2025).
To add a choice task, write a function from a line to an `Item` and add a row to `CHOICE_TASKS`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cdgen.errors import UsageError
from cdgen.eval.tasks.item_files import Line, language_files, lines_files, numbered_rows


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


_PAIRS = (("sen", "wrong_sen"), ("sentence_good", "sentence_bad"))


def _multiblimp(line: Line, language: str) -> Item:
    """Return a pair of sentences under the released names, `sen` and `wrong_sen`, or BLiMP's."""
    names = next((names for names in _PAIRS if names[0] in line), _PAIRS[0])
    good, bad = (_candidate(line, name) for name in names)
    named = next((key for key in ("phenomenon", "UID") if key in line), None)
    if named is None:
        return Item(language, (good, bad), (0, 0), (good, bad), labels={"language": language})
    phenomenon = _candidate(line, named)
    labels = {"language": language, "phenomenon": phenomenon}
    return Item(f"{language}/{phenomenon}", (good, bad), (0, 0), (good, bad), labels=labels)


def _language_of(uid: str) -> str:
    return uid.partition("/")[0]


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


def _split_of(uid: str) -> str:
    return uid.rsplit("_", 2)[0]  # FILE_N_ops


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
    read: Callable[[Line, str], Item]  # takes a line and its file's name without endings
    pipeline_folder: str | None  # where the pipeline keeps its predictions; None if it has no such
    metric: str = "acc"  # or "spearman"
    # The file that a sub-task is in: its sub-tasks are averaged, then the files. None averages
    # over all sub-tasks.
    file_of: Callable[[str], str] | None = None
    by_language: bool = False  # each file, or folder of files, is a language; tables are read too


CHOICE_TASKS = (
    ChoiceTask("blimp", _blimp, "blimp"),
    ChoiceTask("multiblimp", _multiblimp, None, file_of=_language_of, by_language=True),
    ChoiceTask("supplement", _blimp, "blimp"),
    ChoiceTask("ewok", _ewok, "ewok"),
    ChoiceTask("entity_tracking", _entity_tracking, "entity_tracking", file_of=_split_of),
    ChoiceTask("comps", _comps, "comps"),
    ChoiceTask("wug_adj", _wug("wug_adj"), "wug_adj", "spearman"),
    ChoiceTask("wug_past", _wug("wug_past"), "wug_past", "spearman"),
)


def choice_task(name: str) -> ChoiceTask | None:
    """Return the choice task of a folder such as `blimp_fast`; None if it holds another kind."""
    return next((task for task in CHOICE_TASKS if name.startswith(task.prefix)), None)


def read_items(folder: Path, task: ChoiceTask) -> list[Item]:
    """Return the items of a folder's files, in the order of the files' names, and say if some of
    them leave nothing to choose.

    Raises UsageError naming file and line, and for a file without items.
    """
    items: list[Item] = []
    alike: list[str] = []  # the places of items whose candidates are all the same text
    for name, path in (language_files if task.by_language else lines_files)(folder):
        before = len(items)
        for number, line in numbered_rows(path):
            place = f"{path}, line {number}"
            items.append(_item(task, line, name, place))
            if len(set(items[-1].candidates)) == 1:
                alike.append(place)
        if len(items) == before:
            raise UsageError(f"{path}: expected one item per line, found none; remove the file")
    if alike:
        print(
            f"{folder.name}: in {len(alike)} of {len(items)} items all candidates are the same"
            f" text, so they can only tie; the first: {alike[0]}",
            file=sys.stderr,
        )
    return items


def _item(task: ChoiceTask, line: Line, name: str, place: str) -> Item:
    try:
        return task.read(line, name)
    except KeyError as error:
        raise UsageError(f"{place}: no field {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{place}: {error}") from error
