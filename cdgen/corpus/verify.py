"""Reading a corpus back, finished or not, and listing what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cdgen.corpus.card import render_card
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import FileEntry, Manifest, RangeEntry, damage, foreign, read_manifest
from cdgen.corpus.plan import parse_stored
from cdgen.corpus.prompts import open_table
from cdgen.corpus.row_files import ROWS_PER_GROUP, read_rows
from cdgen.corpus.rows import NOTHING, columns_of, count_rows
from cdgen.errors import CdgenError, PlanMismatch, StorageError
from cdgen.storage import read_record


def verify(out: Path) -> list[str]:
    """Read every byte of the corpus again.

    Returns one text per problem, with the file's name, and [] if all is well. Missing ranges count
    as problems. Raises UsageError if `out` holds no corpus.
    """
    folder = CorpusFolder(out)
    try:
        folder.plan  # noqa: B018 - raises if it is damaged
        manifest = read_manifest(folder) if folder.is_finalized else None
    except (StorageError, PlanMismatch) as error:
        return [str(error)]
    problems = [*_verify_records(folder), *_verify_prompts(folder)]
    if manifest:
        return [*problems, *_verify_dataset(folder, manifest)]
    return [*problems, *_verify_ranges(folder)]


def _verify_records(folder: CorpusFolder) -> Iterator[str]:
    """Check what stands beside the plan: the names of the models, and heartbeats."""
    for path in (folder.names_file, *sorted(folder.heartbeats.glob("*.json"))):
        try:
            if path.exists():
                read_record(path)
        except StorageError as error:
            if path.exists():  # else a worker has ended just now
                yield str(error)


def _verify_prompts(folder: CorpusFolder) -> list[str]:
    """Check the prompt table. It is not published with a finished dataset, so it may be absent."""
    if folder.is_finalized and not folder.prompts.exists():
        return []
    try:
        table = open_table(folder.prompts)
    except CdgenError as error:
        return [str(error)]
    same = table.plan == folder.plan.prompts
    return [] if same else [f"{folder.prompts} holds other prompts than the plan's."]


def _verify_dataset(folder: CorpusFolder, manifest: Manifest) -> Iterator[str]:
    plan = folder.plan
    if len(manifest.files) != plan.num_files:
        yield f"manifest.json: expected {plan.num_files} files, lists {len(manifest.files)}."
        return
    planned = [folder.data_path(index) for index in range(plan.num_files)]
    listed = [folder.out / entry.path for entry in manifest.files]
    totals = sum((entry.counts for entry in manifest.files), NOTHING)
    if (manifest.plan, manifest.plan_sha256) != (plan, plan.sha256):
        yield "manifest.json: its plan is not the one in .cdgen/plan.json."
    if listed != planned or totals != manifest.totals or totals.rows != plan.num_sequences:
        yield "manifest.json: its files or totals are not those of the plan."
        return
    for index, entry in enumerate(manifest.files):
        ranges = plan.file_ranges(index)
        ids = range(plan.sequence_ids(ranges[0]).start, plan.sequence_ids(ranges[-1]).stop)
        if problem := damage(folder, entry) or _contradiction(folder, entry, ids):
            yield problem
    if manifest.prompts and (problem := damage(folder, manifest.prompts)):
        yield problem
    for path in sorted(set(folder.data.glob("*")) - set(planned)):
        yield f"data/{path.name}: not in the manifest. Remove it."
    card = folder.card
    if not card.exists() or card.read_bytes() != render_card(manifest).encode():
        yield "README.md: not as finalize wrote it; edited or damaged."


def _verify_ranges(folder: CorpusFolder) -> Iterator[str]:
    plan, missing = folder.plan, 0
    for index in range(plan.num_ranges):
        path = folder.range_entry_path(index)
        if not path.exists():
            missing += 1
            continue
        try:
            entry = parse_stored(RangeEntry, read_record(path), path, "range's entry")
        except StorageError as error:
            yield str(error)
            continue
        problem = foreign(entry, plan) or damage(folder, entry)
        if problem := problem or _contradiction(folder, entry, plan.sequence_ids(index)):
            yield problem
    if missing:
        yield f"{folder} is incomplete: {missing} of {plan.num_ranges} ranges are missing."


def _contradiction(folder: CorpusFolder, entry: FileEntry, ids: range) -> str | None:
    """Return why the rows of an undamaged file are not the sequences `ids`, or not as counted."""
    rows = read_rows(folder.out / entry.path, list(columns_of(folder.plan)))
    counts, expected = NOTHING, ids.start
    try:
        while batch := list(islice(rows, ROWS_PER_GROUP)):
            last = expected + len(batch)
            if [row["sequence_id"] for row in batch] != list(range(expected, last)):
                first, end = ids.start, ids.stop - 1
                return f"{entry.path}: sequence ids are not {first} to {end}, each once"
            if any(len(r["tokens"]) != r["prompt_tokens"] + r["new_tokens"] for r in batch):
                return f"{entry.path}: a row has other than prompt_tokens + new_tokens tokens"
            expected = last
            counts += count_rows(batch)
    except StorageError as error:
        return str(error)
    if expected != ids.stop or counts != entry.counts:
        return f"{entry.path}: holds {counts}, expected {entry.counts}"
    return None
