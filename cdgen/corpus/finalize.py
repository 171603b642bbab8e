"""Turning the committed ranges into the finished dataset."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

from cdgen.corpus import advice
from cdgen.corpus.card import render_card
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import (
    FileEntry,
    Manifest,
    RangeEntry,
    WrittenFile,
    damage,
    foreign,
    read_manifest,
    wrong_size,
)
from cdgen.corpus.plan import library_versions
from cdgen.corpus.prompts import ORIGINS, open_table
from cdgen.corpus.ranges import read_range
from cdgen.corpus.row_files import merge_files
from cdgen.corpus.rows import NOTHING
from cdgen.errors import PlanMismatch, StorageError
from cdgen.packages import require_package
from cdgen.storage import (
    lock,
    make_folder,
    remove_file,
    remove_folder,
    remove_temporaries,
    require_space,
    sha256_of,
    write_atomic,
    write_record,
)


def finalize(out: Path) -> Manifest:
    """Merge the ranges of `out` into data/, README.md and manifest.json, then delete them.

    Of a finished corpus, only writes a card or prompts.jsonl that was deleted. Killed anywhere, it
    completes the same bytes when called again. Raises StorageError if a range is missing or
    damaged, or a file of a finished corpus is missing or has another size, PlanMismatch if pyarrow
    is not the plan's.
    """
    folder = CorpusFolder(out)
    folder.plan  # noqa: B018 - raises if there is no corpus
    if not folder.is_finalized or folder.ranges.exists():
        folder.require_contained()
        with lock(folder.locks / "finalize.lock"):
            if not folder.is_finalized:
                _write_dataset(folder)
            _remove_ranges(folder)
    manifest = read_manifest(folder)
    _require_data(folder, manifest)
    _restore(folder, manifest)
    return manifest


def _require_data(folder: CorpusFolder, manifest: Manifest) -> None:
    """Raise StorageError if a data file is missing or has another size: a user may have deleted a
    damaged one. Only `verify` reads them."""
    for entry in manifest.files:
        if problem := wrong_size(folder, entry):
            raise StorageError(f"{folder} is damaged: {problem}. {advice.on_dataset(folder)}")


def _restore(folder: CorpusFolder, manifest: Manifest) -> None:
    """Write README.md and prompts.jsonl again if a user deleted them, as `verify` advises."""
    beside = [folder.card, *([folder.prompt_origins] if manifest.prompts else [])]
    if advice.is_published(folder) or all(path.exists() for path in beside):
        return
    folder.require_contained()
    with lock(folder.locks / "finalize.lock"):
        if not folder.card.exists():
            write_atomic(folder.card, render_card(manifest).encode())
        if manifest.prompts and not folder.prompt_origins.exists():
            _require_origins(folder, manifest.prompts)
            _publish_prompt_origins(folder)


def _require_origins(folder: CorpusFolder, published: WrittenFile) -> None:
    path = folder.prompts / ORIGINS
    if not path.is_file() or sha256_of(path) != published.sha256:
        raise StorageError(f"{folder.prompt_origins} is gone. {advice.on_prompt_origins(folder)}")


def _write_dataset(folder: CorpusFolder) -> None:
    """Write data, card and manifest, the manifest last: if it exists, everything else does."""
    plan = folder.plan
    if plan.format == "parquet":
        _require_pyarrow(folder, plan.libraries["pyarrow"])
    _require_complete(folder)
    open_table(folder.prompts)  # raises if the origins of the prompts are damaged or gone
    make_folder(folder.data)
    remove_temporaries(folder.data)
    remove_temporaries(folder.out)
    files = tuple(_merge(folder, index) for index in range(plan.num_files))
    totals = sum((file.counts for file in files), NOTHING)
    prompts = _publish_prompt_origins(folder)
    manifest = Manifest(
        plan=plan,
        models=folder.model_names,
        plan_sha256=plan.sha256,
        files=files,
        totals=totals,
        prompts=prompts,
    )
    write_atomic(folder.card, render_card(manifest).encode())
    write_record(folder.manifest_file, manifest.fields)


def _publish_prompt_origins(folder: CorpusFolder) -> WrittenFile | None:
    """Copy the origins of the prompts beside the data; an older cdgen did not record them."""
    source, path = folder.prompts / ORIGINS, folder.prompt_origins
    if not source.exists():
        return None

    def copy(target: BinaryIO) -> None:
        with source.open("rb") as file:
            shutil.copyfileobj(file, target)

    written = write_atomic(path, copy)
    return WrittenFile(path=path.name, bytes=written.bytes, sha256=written.sha256)


def _require_pyarrow(folder: CorpusFolder, wanted: str) -> None:
    require_package("pyarrow", f" to finalize {folder}; it was begun with version {wanted}")
    installed = library_versions("parquet")["pyarrow"]
    if installed != wanted:
        raise PlanMismatch(
            f"{folder} was begun with pyarrow {wanted}, installed is {installed}, which may write "
            f"other bytes: install pyarrow {wanted}, then finalize again."
        )


def _require_complete(folder: CorpusFolder) -> None:
    num_ranges = folder.plan.num_ranges
    size, missing = 0, []
    for index in range(num_ranges):
        if entry := read_range(folder, index):
            size += entry.bytes
        else:
            missing.append(index)
    if missing:
        raise StorageError(
            f"{folder} is incomplete: {len(missing)} of {num_ranges} ranges are missing, the first"
            f" is range {missing[0]}."
            f" {advice.on_missing(folder, missing, folder.busy_shards())}"
        )
    # Merged rows compress at least as well as those of ranges.
    require_space(folder.out, size, "the merged files")


def _merge(folder: CorpusFolder, file_index: int) -> FileEntry:
    path, indices = folder.data_path(file_index), folder.plan.file_ranges(file_index)
    counts = sum((_intact_range(folder, index).counts for index in indices), NOTHING)
    sources = [folder.range_path(index) for index in indices]
    written = write_atomic(path, lambda file: merge_files(file, folder.plan, sources))
    return FileEntry(
        path=str(path.relative_to(folder.out)),
        bytes=written.bytes,
        sha256=written.sha256,
        **counts.model_dump(),
    )


def _intact_range(folder: CorpusFolder, index: int) -> RangeEntry:
    entry = read_range(folder, index)
    problem = "it vanished"
    if entry:
        problem = foreign(entry, folder.plan) or damage(folder, entry) or ""
        if not problem:
            return entry
    raise StorageError(
        f"range {index} of {folder.plan.num_ranges} is unusable: {problem}. Delete"
        f" {folder.range_path(index)}. {advice.on_missing(folder, [index])}"
    )


def _remove_ranges(folder: CorpusFolder) -> None:
    if folder.ranges.exists():
        remove_temporaries(folder.ranges)
        for index in range(folder.plan.num_ranges):
            remove_file(folder.range_entry_path(index))
            remove_file(folder.range_path(index))
        remove_folder(folder.ranges)
