"""The tasks of (Super)GLUE as in BabyLM 2025, and their examples as token sequences.

Fields, their order and the words around them are those of the official pipeline.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from transformers import PreTrainedTokenizerBase

from cdgen.corpus.text_files import numbered_lines
from cdgen.errors import ModelError, UsageError

Example = dict[str, Any]  # "input_ids": list of tokens, "labels": one label


@dataclass(frozen=True)
class GlueTask:
    text: str  # the template of a text: a line's fields, with a newline between the two parts
    labels: int = 2
    batch_size: int = 32
    epochs: int = 10
    f1: bool = False  # report F1 beside the accuracy, and choose the best epoch by it


GLUE_TASKS = {
    "boolq": GlueTask("{question}\n{passage}", batch_size=16),
    "multirc": GlueTask("Question: {question} Answer: {answer}\n{paragraph}", batch_size=16),
    "rte": GlueTask("{sentence1}\n{sentence2}"),
    "wsc": GlueTask(
        'Does "{span2_text}" refer to "{span1_text}" in this passage?\n{text}', epochs=30
    ),
    "mrpc": GlueTask("{sentence1}\n{sentence2}", f1=True),
    "qqp": GlueTask("{question1}\n{question2}", f1=True),
    "mnli": GlueTask("{premise}\n{hypothesis}", labels=3),
}


def read_examples(
    path: Path, task: GlueTask, tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[Example]:
    """Return the examples of a file, one per line. Raises UsageError naming file and line."""
    examples = []
    for number, line in numbered_lines(path):
        fields, label = parse(line, task, f"{path}:{number}")
        tokens = encode(fields, task.text, tokenizer, limit)
        examples.append({"input_ids": tokens, "labels": label})
    if not examples:
        raise UsageError(f"{path} is empty: expected one JSON object per line")
    return examples


def parse(line: str, task: GlueTask, place: str) -> tuple[dict[str, str], int]:
    """Return the fields that the task's text names, and the label."""
    names = [name for _, name, _, _ in Formatter().parse(task.text) if name]
    try:
        found = json.loads(line)
        fields, label = {name: found[name] for name in names}, found["label"]
        "".join(fields.values()).encode()  # raises for a number or half a surrogate pair
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        expected = f"a JSON object with label and texts {', '.join(names)}"
        raise UsageError(f"{place}: expected {expected}, found {error!r:.150}") from error
    if type(label) is not int or not 0 <= label < task.labels:
        raise UsageError(f"{place}: expected label 0 to {task.labels - 1}, found {label!r:.50}")
    return fields, label


def encode(
    fields: dict[str, str], text: str, tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[int]:
    """Return at most `limit` tokens; the longest field loses its end so that the last one stays."""
    # Special tokens that a text spells out are text.
    options = {"verbose": False, "split_special_tokens": True}
    while len(tokens := tokenizer(text.format(**fields), **options)["input_ids"]) > limit:
        longest = max(fields, key=lambda name: len(fields[name]))
        if not fields[longest]:
            raise ModelError(f"a context of {limit} tokens is too short for {text!r}")
        kept = fields[longest].encode()[: limit - len(tokens)]  # no token is shorter than a byte
        fields = fields | {longest: kept.decode(errors="ignore")}
    return tokens
