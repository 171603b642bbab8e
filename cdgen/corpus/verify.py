"""Reading a corpus back, finished or not, and listing what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cdgen.corpus import advice
from cdgen.corpus.advice import Problem
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
    """Return the texts of `find_problems`."""
    return [problem.text for problem in find_problems(out)]


def find_problems(out: Path) -> list[Problem]:
    """Read every byte of the corpus again.

    Returns the problems, each with the file's name and what to do about it, and [] if all is well.
    Missing ranges count as problems. Raises UsageError if `out` holds no corpus.
    """
    folder = CorpusFolder(out)
    what_to_do = advice.on_plan if folder.plan_file.exists() else advice.on_dataset
    try:
        folder.plan  # noqa: B018 - raises if it is damaged
        what_to_do = advice.on_dataset
        manifest = read_manifest(folder) if folder.is_finalized else None
    except PlanMismatch as error:  # of another cdgen, and no damage
        return [Problem(str(error))]
    except StorageError as error:
        return [Problem(str(error), what_to_do(folder))]
    problems = [*_verify_records(folder), *_verify_prompts(folder)]
    if manifest:
        return [*problems, *_verify_dataset(folder, manifest)]
    return [*problems, *_verify_ranges(folder)]


def _verify_records(folder: CorpusFolder) -> Iterator[Problem]:
    """Check what stands beside the plan: the names of the models, and heartbeats."""
    for path in (folder.names_file, *sorted(folder.heartbeats.glob("*.json"))):
        try:
            if path.exists():
                read_record(path)
        except StorageError as error:
            if path.exists():  # else a worker has ended just now
                of_names = path == folder.names_file
                yield Problem(
                    str(error), advice.on_names(folder) if of_names else f"Delete {path}."
                )


def _verify_prompts(folder: CorpusFolder) -> list[Problem]:
    """Check the prompt table. It is not published with a finished dataset, so it may be absent."""
    if folder.is_finalized and not folder.prompts.exists():
        return []
    try:
        table = open_table(folder.prompts)
    except CdgenError as error:
        return [Problem(str(error), advice.on_prompts(folder))]
    if table.plan == folder.plan.prompts:
        return []
    text = f"{folder.prompts} holds other prompts than the plan's."
    return [Problem(text, advice.on_prompts(folder))]


def _verify_dataset(folder: CorpusFolder, manifest: Manifest) -> Iterator[Problem]:
    for wrong in _wrong_with_data(folder, manifest):
        yield Problem(wrong, advice.on_dataset(folder))
    if manifest.prompts and (text := damage(folder, manifest.prompts)):
        yield Problem(text, advice.on_prompt_origins(folder))
    listed = {folder.out / entry.path for entry in manifest.files}
    for path in sorted(set(folder.data.glob("*")) - listed):
        yield Problem(f"data/{path.name}: not in the manifest. Remove it.")
    if text := _wrong_with_card(folder, manifest):
        yield Problem(text, advice.on_card(folder))


def _wrong_with_card(folder: CorpusFolder, manifest: Manifest) -> str | None:
    if not folder.card.exists():
        return "README.md: No such file or directory"
    same = folder.card.read_bytes() == render_card(manifest).encode()
    return None if same else "README.md: not as finalize wrote it; edited or damaged."


def _wrong_with_data(folder: CorpusFolder, manifest: Manifest) -> Iterator[str]:
    """Compare the manifest with the plan, and the files of data/ with the manifest."""
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
        if text := damage(folder, entry) or _contradiction(folder, entry, ids):
            yield text


def _verify_ranges(folder: CorpusFolder) -> Iterator[Problem]:
    plan, missing = folder.plan, []
    for index in range(plan.num_ranges):
        path = folder.range_entry_path(index)
        if not path.exists():
            missing.append(index)
            continue
        try:
            entry = parse_stored(RangeEntry, read_record(path), path, "range's entry")
            text = foreign(entry, plan) or damage(folder, entry)
            text = text or _contradiction(folder, entry, plan.sequence_ids(index))
        except StorageError as error:
            text = str(error)
        if text:
            yield Problem(text, advice.on_ranges(folder))
    if missing:
        text = f"{folder} is incomplete: {len(missing)} of {plan.num_ranges} ranges are missing."
        yield Problem(text, advice.on_missing(folder, missing))


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
