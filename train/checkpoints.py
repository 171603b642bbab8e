"""Checkpoint folders: which are complete, and at which steps the word milestones of BabyLM lie.

A folder is complete when it has its marker, which is written last. One without was being written
when the run was killed; a resume passes it over.
"""

from __future__ import annotations

import os
import re
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cdgen.storage import canonical_json, write_atomic

MARKER = "complete.json"
_TRAINERS = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path, facts: Mapping[str, Any]) -> None:
    """Makes the files of `folder` durable, then says so."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    write_atomic(folder / MARKER, canonical_json(dict(facts)))


def is_complete(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def step_of(folder: Path) -> int:
    """Of a folder that the Trainer wrote."""
    match = _TRAINERS.fullmatch(folder.name)
    assert match, folder
    return int(match[1])


def last_complete(checkpoints: Path) -> tuple[Path | None, list[Path]]:
    """The checkpoint to go on from, and the later ones that were passed over."""
    found = [path for path in checkpoints.iterdir() if _TRAINERS.fullmatch(path.name)]
    skipped: list[Path] = []
    for folder in sorted(found, key=step_of, reverse=True):
        if is_complete(folder):
            return folder, skipped
        skipped.append(folder)
    return None, skipped


def milestones() -> Iterator[int]:
    """In millions of words: 1, 2, ... 10, 20, ... 100, 200, ... (revisions chck_1M, ...)."""
    yield from range(1, 10)
    yield from range(10, 100, 10)
    yield from count(100, 100)


def milestone_steps(words: Callable[[int], int], steps: int) -> dict[int, list[str]]:
    """The folders due after each step: training has then read that many words for the first time.

    `words`: how many the first n steps read.
    """
    due: dict[int, list[str]] = {}
    for millions in milestones():
        step = bisect_left(range(steps + 1), millions * 1_000_000, key=words)
        if step > steps:
            return due
        due.setdefault(step, []).append(f"chck_{millions}M")
    raise AssertionError("milestones have no end")


def save_milestone(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    facts: Mapping[str, Any],
) -> None:
    """Whole or not at all. One that is there stays: the run was killed later and came back."""
    if is_complete(folder):
        return
    partial = folder.with_name(f".{folder.name}.partial")
    for remains in (partial, folder):
        shutil.rmtree(remains, ignore_errors=True)
    trained_with = model.config.use_cache
    model.config.use_cache = True  # Trainer turns it off: of use in training only
    model.save_pretrained(partial)
    model.config.use_cache = trained_with
    tokenizer.save_pretrained(partial)
    mark_complete(partial, facts)
    partial.rename(folder)
