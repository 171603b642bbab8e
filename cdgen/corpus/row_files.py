"""Files of rows, Parquet or JSON Lines: writing, merging and reading them.

A JSON line holds the columns in order. A float32 is written as the shortest decimal number that
reads back to it, so that the bytes of a file depend only on its rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence, Sized
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cdgen.corpus.plan import Format, Plan
from cdgen.corpus.rows import columns_of
from cdgen.errors import StorageError
from cdgen.packages import require_package

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_PER_GROUP = 1000
_FLOATS = ("mean_plausible", "good_logprob")


def require_writer(format: Format) -> None:
    """Raise UsageError if files of this `format` cannot be written here."""
    if format == "parquet":
        require_package("pyarrow", ", or give --format jsonl")


def write_rows(file: BinaryIO, plan: Plan, rows: Sequence[Mapping[str, Any]]) -> None:
    if plan.format == "jsonl":
        for row in rows:
            file.write(_json_line(row))
        return
    with _parquet_writer(file, plan) as writer:
        writer.write_table(_table(plan, rows))


def merge_files(file: BinaryIO, plan: Plan, paths: Sequence[Path]) -> None:
    """Write the rows of all `paths` in order. Raises StorageError if a file cannot be read."""
    if plan.format == "jsonl":
        for path in paths:
            try:
                source = path.open("rb")
            except OSError as error:
                raise StorageError(f"cannot read {path}: {error.strerror}.") from error
            with source:
                shutil.copyfileobj(source, file)
        return
    with _parquet_writer(file, plan) as writer:
        for table in _row_groups(paths):
            writer.write_table(table)


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of `path`, cut to `columns`, without holding the file in memory.

    Raises StorageError if `path` cannot be read or decoded, or lacks a column.
    """
    if path.suffix == ".jsonl":
        yield from _json_rows(path, columns)
    else:
        for table in _parquet_batches(path, columns):
            yield from table.to_pylist()


# ---- JSON Lines --------------------------------------------------------------------------------


def _json_line(row: Mapping[str, Any]) -> bytes:
    exact = {name: _shortest(value) if name in _FLOATS else value for name, value in row.items()}
    text = json.dumps(exact, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"{text}\n".encode()


def _shortest(value: float | None) -> float | None:
    """Return the float with the shortest decimal number that reads back to the float32 `value`."""
    return None if value is None else float(str(np.float32(value)))


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                row = json.loads(line)
                for name in _FLOATS:
                    if row.get(name) is not None:
                        row[name] = float(np.float32(row[name]))
                yield {name: row[name] for name in columns}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(f"cannot read {path}, line {number}: {error}.") from error
    except KeyError as error:
        raise StorageError(f"{path}, line {number}: no column {error}.") from error


# ---- Parquet -----------------------------------------------------------------------------------


def _schema(plan: Plan) -> pa.Schema:
    import pyarrow as pa

    types = {name: getattr(pa, kind)() for name, kind in columns_of(plan).items()}
    return pa.schema({**types, "tokens": pa.list_(types["tokens"])})


def _table(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the rows as `pa.Table.from_pylist` would. That imports pandas, which takes longer than
    the model of a small run."""
    import pyarrow as pa

    schema = _schema(plan)
    columns = [_column(field.type, [row[field.name] for row in rows]) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    """Return a column: numbers, of which some may be None, texts, or lists of numbers."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        numbers = _column(kind.value_type, [number for value in values for number in value])
        return pa.ListArray.from_arrays(_column(pa.int32(), _offsets(values)), numbers, type=kind)
    if pa.types.is_string(kind):
        texts = [value.encode() for value in values]
        offsets = pa.py_buffer(np.array(_offsets(texts), np.int32))
        return pa.StringArray.from_buffers(len(texts), offsets, pa.py_buffer(b"".join(texts)))
    given = [value is not None for value in values]
    bits = None if all(given) else pa.py_buffer(np.packbits(given, bitorder="little"))
    numbers = np.array([0 if v is None else v for v in values], kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(numbers), [bits, pa.py_buffer(numbers)])


def _offsets(values: Sequence[Sized]) -> list[int]:
    """Return where each value begins if they follow one another, and the end of the last."""
    return [0, *accumulate(map(len, values))]


def _parquet_writer(file: BinaryIO, plan: Plan) -> pq.ParquetWriter:
    """Return the writer of all Parquet files. Its bytes depend on the rows and pyarrow only."""
    import pyarrow.parquet as pq

    return pq.ParquetWriter(
        file,
        _schema(plan),
        compression="zstd",
        compression_level=3,
        write_page_index=True,
        write_page_checksum=True,
    )


def _row_groups(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """Yield the rows of all `paths` in tables of ROWS_PER_GROUP rows; the last may be shorter."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    for path in paths:
        for batch in _parquet_batches(path):
            table = pa.concat_tables([*waiting, batch])
            while table.num_rows >= ROWS_PER_GROUP:
                yield table.slice(0, ROWS_PER_GROUP)
                table = table.slice(ROWS_PER_GROUP)
            waiting = [table]
    if waiting and waiting[0].num_rows:
        yield waiting[0]


def _parquet_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    require_package("pyarrow", f" to read {path}")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if missing := set(columns or ()) - set(file.schema_arrow.names):
                raise StorageError(f"{path}: no column {sorted(missing)}.")
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=columns, use_threads=False):
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot read {path}: {error}.") from error
