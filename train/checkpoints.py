"""Checkpoint folders: which are complete, and the steps of BabyLM's word milestones.

A folder is complete once it has its marker, which is written last and records the size of every
other file. A folder without one was being written when the run was killed; a resume skips it.
"""

from __future__ import annotations

import re
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cdgen.checkpoints.checkpoint import read_json, reading
from cdgen.contained import is_plain_name
from cdgen.errors import ModelError
from cdgen.storage import canonical_json, remove_file, sync_files, sync_folder, write_atomic

MARKER = "complete.json"
_ADVICE = (
    "put it back, or delete the folder and all checkpoints after it: the same command then goes on"
    " from the last one that is left"
)
_TRAINERS = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path, facts: Mapping[str, Any]) -> None:
    """Make the files of `folder` durable, then its marker, then its name.

    Hidden files are what a killed run had not renamed yet, here or in safetensors: they go.
    """
    for path in folder.glob(".*"):
        remove_file(path)
    sizes = sync_files(folder)
    sizes.pop(MARKER, None)
    write_atomic(folder / MARKER, canonical_json({**facts, "bytes": sizes}))
    sync_folder(folder.parent)


def is_complete(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def require_whole(folder: Path) -> dict[str, Any]:
    """Return the facts in the marker of `folder`. Raises ModelError if the marker, or a file that
    it lists, is missing or has another size."""
    with reading(folder):
        if not is_complete(folder):
            raise ModelError(
                f"{folder}: no {MARKER}, so it was deleted or never finished; {_ADVICE}"
            )
        facts = read_json(folder / MARKER)
        sizes = facts.get("bytes", {})
        if not isinstance(sizes, dict) or not all(map(is_plain_name, sizes)):
            raise ModelError(f"{folder / MARKER} is damaged; {_ADVICE}")
        for name, size in sizes.items():
            file = folder / name
            found = file.stat().st_size if file.is_file() else "none"
            if found != size:
                raise ModelError(f"{file}: {found} bytes, {size} when it was written; {_ADVICE}")
    return facts


def step_of(folder: Path) -> int:
    """Return the step of a folder that the Trainer wrote."""
    match = _TRAINERS.fullmatch(folder.name)
    assert match, folder
    return int(match[1])


def last_complete(checkpoints: Path) -> tuple[Path | None, list[Path]]:
    """Return the checkpoint to resume from, and the later ones that were skipped."""
    found = [path for path in checkpoints.iterdir() if _TRAINERS.fullmatch(path.name)]
    skipped: list[Path] = []
    for folder in sorted(found, key=step_of, reverse=True):
        if is_complete(folder):
            return folder, skipped
        skipped.append(folder)
    return None, skipped


def milestones() -> Iterator[int]:
    """Yield milestones in millions of words: 1, 2, ... 10, 20, ... 100, 200, ... (revisions
    chck_1M, ...)."""
    yield from range(1, 10)
    yield from range(10, 100, 10)
    yield from count(100, 100)


def milestone_steps(words: Callable[[int], int], steps: int) -> dict[int, list[str]]:
    """Return the folders due after each step at which training has first read that many words.

    `words` gives the words read in the first n steps.
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
    """Write a milestone folder whole or not at all. An existing one is kept: the run was killed
    after it and resumed."""
    if is_complete(folder):
        return
    partial = folder.with_name(f".{folder.name}.partial")
    for remains in (partial, folder):
        shutil.rmtree(remains, ignore_errors=True)
    trained_with = model.config.use_cache
    model.config.use_cache = True  # Trainer turns it off because training does not use it
    model.save_pretrained(partial)
    model.config.use_cache = trained_with
    tokenizer.save_pretrained(partial)
    mark_complete(partial, facts)
    partial.rename(folder)
    sync_folder(folder.parent)
