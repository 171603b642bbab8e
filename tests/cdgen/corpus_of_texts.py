"""Corpora of given texts, written without a model; finished, or with the first ranges only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from small_corpus import begin, make_row

from cdgen.corpus.finalize import finalize
from cdgen.corpus.ranges import commit_range
from cdgen.corpus.rows import Row


def write_texts(
    out: Path,
    text_of: Callable[[int], str] = lambda sequence_id: f"text number {sequence_id}",
    ranges: int | None = None,  # the first ones; None: all, and the corpus is finished
    change: Callable[[Row], Row] = lambda row: row,
    **plan: Any,
) -> Path:
    """Write the rows of `small_corpus` with other texts, each changed by `change`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = begin(out, **plan)
    for index in range(folder.plan.num_ranges if ranges is None else ranges):
        rows = (make_row(folder.plan, number) for number in folder.plan.sequence_ids(index))
        texts = (change(replace(row, text=text_of(row.sequence_id))) for row in rows)
        commit_range(folder, index, texts)
    if ranges is None:
        finalize(out)
    return out
