"""Turn committed ranges into the finished dataset, and check a corpus, finished or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from cdgen.card import render_card
from cdgen.corpus import (
    NOTHING,
    Counts,
    FileEntry,
    Manifest,
    RangeEntry,
    count_rows,
    parquet_writer,
    range_path,
    read_manifest,
    read_range,
)
from cdgen.errors import CdgenError, PlanMismatch, StorageError
from cdgen.plan import STATE, Plan, is_finalized, library_versions, prompts_folder, read_plan
from cdgen.prompts import open_table
from cdgen.storage import (
    lock,
    make_folder,
    read_record,
    remove_file,
    remove_folder,
    remove_temporaries,
    require_space,
    sha256_of,
    write_atomic,
    write_record,
)

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 1000


def finalize(out: Path) -> Manifest:
    """Merge the ranges of `out` into data/, README.md and manifest.json, then delete them.

    Does nothing when that is done; killed anywhere, it completes the same bytes when called again.
    Raises StorageError if a range is missing or damaged, PlanMismatch if pyarrow is not the plan's.
    """
    plan = read_plan(out)
    if not is_finalized(out) or _ranges_folder(out).exists():
        with lock(out / STATE / "locks" / "finalize.lock"):
            if not is_finalized(out):
                _write_dataset(out, plan)
            _remove_ranges(out, plan)
    return read_manifest(out)


def _write_dataset(out: Path, plan: Plan) -> None:
    """The manifest is written last: once it exists, everything else does."""
    wanted, installed = plan.libraries["pyarrow"], library_versions()["pyarrow"]
    if installed != wanted:
        raise PlanMismatch(
            f"{out} was begun with pyarrow {wanted}, installed is {installed}, which may write "
            f"other bytes: install pyarrow {wanted}, then finalize again."
        )
    _require_complete(out, plan)
    make_folder(out / "data")
    remove_temporaries(out / "data")
    remove_temporaries(out)
    files = tuple(_merge(out, plan, index) for index in range(plan.num_files))
    totals = sum((file.counts for file in files), NOTHING)
    manifest = Manifest(plan=plan, plan_sha256=plan.sha256, files=files, totals=totals)
    write_atomic(out / "README.md", render_card(manifest).encode())
    write_record(out / "manifest.json", manifest.model_dump(mode="json"))


def _require_complete(out: Path, plan: Plan) -> None:
    size = missing = 0
    first = None
    for index in range(plan.num_ranges):
        if entry := read_range(out, index):
            size += entry.bytes
        else:
            first = index if first is None else first
            missing += 1
    if missing:
        raise StorageError(
            f"{out} is incomplete: {missing} of {plan.num_ranges} ranges are missing, the first is "
            f"range {first}. Run the same generate command again."
        )
    require_space(out, size)  # merged rows compress at least as well as those of small files


def _merge(out: Path, plan: Plan, file_index: int) -> FileEntry:
    path = data_path(out, plan, file_index)
    indices = plan.file_ranges(file_index)
    counts = sum((_intact_range(out, plan, index).counts for index in indices), NOTHING)

    def write(file: BinaryIO) -> None:
        with parquet_writer(file, plan) as writer:
            for table in _row_groups(range_path(out, index) for index in indices):
                writer.write_table(table)

    written = write_atomic(path, write)
    name = str(path.relative_to(out))
    size, digest = written.bytes, written.sha256
    return FileEntry(path=name, bytes=size, sha256=digest, **counts.model_dump())


def _intact_range(out: Path, plan: Plan, index: int) -> RangeEntry:
    entry = read_range(out, index)
    problem = "it vanished" if entry is None else _foreign(entry, plan) or _damage(out, entry)
    if entry is None or problem:
        raise StorageError(
            f"range {index} of {plan.num_ranges} is unusable: {problem}. Delete "
            f"{range_path(out, index)} and run the same generate command again."
        )
    return entry


def _row_groups(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """The rows of `paths` in tables of ROWS_PER_GROUP rows, the last one shorter."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    for path in paths:
        for batch in _read_batches(path):
            table = pa.concat_tables([*waiting, batch])
            while table.num_rows >= ROWS_PER_GROUP:
                yield table.slice(0, ROWS_PER_GROUP)
                table = table.slice(ROWS_PER_GROUP)
            waiting = [table]
    if waiting and waiting[0].num_rows:
        yield waiting[0]


def _read_batches(path: Path) -> Iterator[pa.Table]:
    """Raises StorageError if `path` cannot be read or decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP, use_threads=False):
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {path}: {error}.") from error


def _remove_ranges(out: Path, plan: Plan) -> None:
    folder = _ranges_folder(out)
    if folder.exists():
        remove_temporaries(folder)
        for index in range(plan.num_ranges):
            path = range_path(out, index)
            remove_file(path.with_suffix(".json"))
            remove_file(path)
        remove_folder(folder)


def _ranges_folder(out: Path) -> Path:
    return out / STATE / "ranges"


def data_path(out: Path, plan: Plan, file_index: int) -> Path:
    return out / "data" / f"train-{file_index:05}-of-{plan.num_files:05}.parquet"


# ---- verify ------------------------------------------------------------------------------------


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
        first, last = plan.sequence_ids(ranges[0]), plan.sequence_ids(ranges[-1])
        if problem := _damage(out, entry) or _contradiction(out, entry, first.start, last.stop):
            yield problem
    for path in sorted(set((out / "data").glob("*")) - set(planned)):
        yield f"data/{path.name}: not in the manifest. Remove it."
    card = out / "README.md"
    if not card.exists() or card.read_bytes() != render_card(manifest).encode():
        yield "README.md: not as finalize wrote it; edited or damaged."


def _verify_ranges(out: Path, plan: Plan) -> Iterator[str]:
    missing = 0
    for index in range(plan.num_ranges):
        path = range_path(out, index).with_suffix(".json")
        if not path.exists():
            missing += 1
            continue
        try:
            entry = RangeEntry.model_validate(read_record(path))
        except StorageError as error:
            yield str(error)
            continue
        ids = plan.sequence_ids(index)
        problem = _foreign(entry, plan) or _damage(out, entry)
        if problem := problem or _contradiction(out, entry, ids.start, ids.stop):
            yield problem
    if missing:
        yield f"{out} is incomplete: {missing} of {plan.num_ranges} ranges are missing."


def _foreign(entry: RangeEntry, plan: Plan) -> str | None:
    """Somebody may have copied a range here from another corpus."""
    return None if entry.plan_sha256 == plan.sha256 else f"{entry.path}: made for another plan"


def _damage(out: Path, entry: FileEntry) -> str | None:
    """Why the bytes of a file are not those of its entry."""
    path = out / entry.path
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"{entry.path}: {size} bytes, expected {entry.bytes}"
        digest = sha256_of(path)
    except OSError as error:
        return f"{entry.path}: {error.strerror}"
    if digest != entry.sha256:
        return f"{entry.path}: damaged, sha256 {digest[:12]}..., expected {entry.sha256[:12]}..."
    return None


def _contradiction(out: Path, entry: FileEntry, start: int, stop: int) -> str | None:
    """Why the rows of an undamaged file are not sequences [start, stop), or not as counted."""
    import pyarrow.compute as pc

    counts: Counts = NOTHING
    expected = start
    try:
        for table in _read_batches(out / entry.path):
            ids = table["sequence_id"].to_numpy()
            if not np.array_equal(ids, np.arange(expected, expected + len(ids))):
                return f"{entry.path}: sequence ids are not {start} to {stop - 1}, each once"
            lengths = pc.add(table["prompt_tokens"], table["new_tokens"])
            if not pc.all(pc.equal(pc.list_value_length(table["tokens"]), lengths)).as_py():
                return f"{entry.path}: a row has other than prompt_tokens + new_tokens tokens"
            expected += len(ids)
            counts += count_rows(table)
    except StorageError as error:
        return str(error)
    if expected != stop or counts != entry.counts:
        return f"{entry.path}: holds {counts}, expected {entry.counts}"
    return None
