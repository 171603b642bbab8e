"""Turn committed ranges into the finished dataset."""

from __future__ import annotations

from pathlib import Path

from cdgen.corpus.card import render_card
from cdgen.corpus.files import merge_files
from cdgen.corpus.folder import STATE, is_finalized, read_plan
from cdgen.corpus.plan import Plan, library_versions
from cdgen.corpus.ranges import (
    FileEntry,
    Manifest,
    RangeEntry,
    damage,
    foreign,
    range_path,
    read_manifest,
    read_range,
)
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
    write_atomic,
    write_record,
)


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
    if plan.format == "parquet":
        _require_pyarrow(out, plan.libraries["pyarrow"])
    _require_complete(out, plan)
    make_folder(out / "data")
    remove_temporaries(out / "data")
    remove_temporaries(out)
    files = tuple(_merge(out, plan, index) for index in range(plan.num_files))
    totals = sum((file.counts for file in files), NOTHING)
    manifest = Manifest(plan=plan, plan_sha256=plan.sha256, files=files, totals=totals)
    write_atomic(out / "README.md", render_card(manifest).encode())
    write_record(out / "manifest.json", manifest.model_dump(mode="json"))


def _require_pyarrow(out: Path, wanted: str) -> None:
    require_package("pyarrow", f" to finalize {out}; it was begun with version {wanted}")
    installed = library_versions("parquet")["pyarrow"]
    if installed != wanted:
        raise PlanMismatch(
            f"{out} was begun with pyarrow {wanted}, installed is {installed}, which may write "
            f"other bytes: install pyarrow {wanted}, then finalize again."
        )


def _require_complete(out: Path, plan: Plan) -> None:
    size = missing = 0
    first = None
    for index in range(plan.num_ranges):
        if entry := read_range(out, plan, index):
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
    sources = [range_path(out, plan, index) for index in indices]
    written = write_atomic(path, lambda file: merge_files(file, plan, sources))
    name = str(path.relative_to(out))
    size, digest = written.bytes, written.sha256
    return FileEntry(path=name, bytes=size, sha256=digest, **counts.model_dump())


def _intact_range(out: Path, plan: Plan, index: int) -> RangeEntry:
    entry = read_range(out, plan, index)
    problem = "it vanished" if entry is None else foreign(entry, plan) or damage(out, entry)
    if entry is None or problem:
        raise StorageError(
            f"range {index} of {plan.num_ranges} is unusable: {problem}. Delete "
            f"{range_path(out, plan, index)} and run the same generate command again."
        )
    return entry


def _remove_ranges(out: Path, plan: Plan) -> None:
    folder = _ranges_folder(out)
    if folder.exists():
        remove_temporaries(folder)
        for index in range(plan.num_ranges):
            path = range_path(out, plan, index)
            remove_file(path.with_suffix(".json"))
            remove_file(path)
        remove_folder(folder)


def _ranges_folder(out: Path) -> Path:
    return out / STATE / "ranges"


def data_path(out: Path, plan: Plan, file_index: int) -> Path:
    return out / "data" / f"train-{file_index:05}-of-{plan.num_files:05}.{plan.format}"
