"""Read a corpus back, finished or not, and say what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cdgen.corpus.card import render_card
from cdgen.corpus.files import ROWS_PER_GROUP, columns_of, read_rows
from cdgen.corpus.finalize import data_path
from cdgen.corpus.folder import is_finalized, prompts_folder, read_plan
from cdgen.corpus.plan import Plan
from cdgen.corpus.prompts import open_table
from cdgen.corpus.ranges import (
    FileEntry,
    Manifest,
    RangeEntry,
    damage,
    foreign,
    range_path,
    read_manifest,
)
from cdgen.corpus.rows import NOTHING, count_rows
from cdgen.errors import CdgenError, PlanMismatch, StorageError
from cdgen.storage import read_record


def verify(out: Path) -> list[str]:
    """Read every byte of the corpus again.

    Returns one text per problem, naming the file, and [] if all is well. Missing ranges count.
    Raises UsageError if `out` holds no corpus.
    """
    try:
        plan = read_plan(out)
        manifest = read_manifest(out) if is_finalized(out) else None
    except (StorageError, PlanMismatch) as error:
        return [str(error)]
    problems = _verify_prompts(out, plan)
    if manifest:
        return [*problems, *_verify_dataset(out, plan, manifest)]
    return [*problems, *_verify_ranges(out, plan)]


def _verify_prompts(out: Path, plan: Plan) -> list[str]:
    """The prompt table is not published with a finished dataset, so it may be absent there."""
    folder = prompts_folder(out)
    if is_finalized(out) and not folder.exists():
        return []
    try:
        table = open_table(folder)
    except CdgenError as error:
        return [str(error)]
    return [] if table.plan == plan.prompts else [f"{folder} holds other prompts than the plan's."]


def _verify_dataset(out: Path, plan: Plan, manifest: Manifest) -> Iterator[str]:
    planned = [data_path(out, plan, index) for index in range(plan.num_files)]
    listed = [out / entry.path for entry in manifest.files]
    totals = sum((entry.counts for entry in manifest.files), NOTHING)
    if (manifest.plan, manifest.plan_sha256) != (plan, plan.sha256):
        yield "manifest.json: its plan is not the one in .cdgen/plan.json."
    if listed != planned or totals != manifest.totals or totals.rows != plan.num_sequences:
        yield "manifest.json: its files or totals are not those of the plan."
        return
    for index, entry in enumerate(manifest.files):
        ranges = plan.file_ranges(index)
        start, stop = plan.sequence_ids(ranges[0]).start, plan.sequence_ids(ranges[-1]).stop
        if problem := damage(out, entry) or _contradiction(out, plan, entry, start, stop):
            yield problem
    for path in sorted(set((out / "data").glob("*")) - set(planned)):
        yield f"data/{path.name}: not in the manifest. Remove it."
    card = out / "README.md"
    if not card.exists() or card.read_bytes() != render_card(manifest).encode():
        yield "README.md: not as finalize wrote it; edited or damaged."


def _verify_ranges(out: Path, plan: Plan) -> Iterator[str]:
    missing = 0
    for index in range(plan.num_ranges):
        path = range_path(out, plan, index).with_suffix(".json")
        if not path.exists():
            missing += 1
            continue
        try:
            entry = RangeEntry.model_validate(read_record(path))
        except StorageError as error:
            yield str(error)
            continue
        ids = plan.sequence_ids(index)
        problem = foreign(entry, plan) or damage(out, entry)
        if problem := problem or _contradiction(out, plan, entry, ids.start, ids.stop):
            yield problem
    if missing:
        yield f"{out} is incomplete: {missing} of {plan.num_ranges} ranges are missing."


def _contradiction(out: Path, plan: Plan, entry: FileEntry, start: int, stop: int) -> str | None:
    """Why the rows of an undamaged file are not sequences [start, stop), or not as counted."""
    rows = read_rows(out / entry.path, list(columns_of(plan)))
    counts, expected = NOTHING, start
    try:
        while batch := list(islice(rows, ROWS_PER_GROUP)):
            last = expected + len(batch)
            if [row["sequence_id"] for row in batch] != list(range(expected, last)):
                return f"{entry.path}: sequence ids are not {start} to {stop - 1}, each once"
            if any(len(r["tokens"]) != r["prompt_tokens"] + r["new_tokens"] for r in batch):
                return f"{entry.path}: a row has other than prompt_tokens + new_tokens tokens"
            expected = last
            counts += count_rows(batch)
    except StorageError as error:
        return str(error)
    if expected != stop or counts != entry.counts:
        return f"{entry.path}: holds {counts}, expected {entry.counts}"
    return None
