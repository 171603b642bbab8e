"""The rows of one file or dataset: a text each, its number, and other columns on request."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from cdgen.corpus.json_values import json_values
from cdgen.corpus.text_files import is_compressed, kind_of, numbered_lines, open_plain, reading
from cdgen.errors import UsageError
from cdgen.packages import require_package

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_BATCH_ROWS = 256
# Otherwise a whole row group, which may be the whole file, is read into memory at once.
_PAGE_BY_PAGE: dict[str, Any] = {"buffer_size": 1 << 20, "pre_buffer": False}


class TextRow(NamedTuple):
    """A text, the number of its row (of its line in a text file) from 1, and the other columns that
    were asked for and are there."""

    text: str
    number: int
    others: Mapping[str, Any] = {}


def file_rows(path: Path, column: str = "text", others: Sequence[str] = ()) -> Iterator[TextRow]:
    """Yield the rows of a file: the lines of a text file, the rows of a JSON or Parquet file.

    `column` may be the dotted name of a nested field. Raises UsageError with file and line or row.
    """
    kind = kind_of(path.name)
    if kind == "text":
        return (TextRow(line, number) for number, line in numbered_lines(path))
    if kind == "json":
        return _rows(json_values(path), column, others)
    return _parquet_rows(path, column, others)


def _rows(
    values: Iterator[tuple[str, int, Any]], column: str, others: Sequence[str]
) -> Iterator[TextRow]:
    for place, number, value in values:
        try:
            text = field_of(value, column)
        except KeyError:
            raise UsageError(
                f'{place}: expected an object with "{column}", got {json.dumps(value):.60}'
            ) from None
        yield TextRow(_checked_text(text, column, place), number, _present(value, others))


def field_of(row: Any, name: str) -> Any:
    """Return a column of a row. `meta.text` is the field `text` of the column `meta`, unless a
    column has that whole name. Raises KeyError if there is none."""
    if not isinstance(row, Mapping):
        raise KeyError(name)
    if name in row:
        return row[name]
    column, _, field = name.partition(".")
    return field_of(row[column], field)


def _present(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if row.get(name) is not None}


def _text_of(row: Mapping[str, Any], column: str, place: str) -> str:
    """Return the text of a row whose table has the column; where it is nested, what is around it
    may still be null."""
    try:
        text = field_of(row, column)
    except KeyError:
        raise UsageError(f'{place}: expected "{column}", but a field around it is null.') from None
    return _checked_text(text, column, place)


def _checked_text(text: object, column: str, place: str) -> str:
    if not isinstance(text, str):
        raise UsageError(f'{place}: expected "{column}" to be a string, got {type(text).__name__}.')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f'{place}: "{column}" holds half of a surrogate pair.') from error
    return text


def _parquet_rows(path: Path, column: str, others: Sequence[str]) -> Iterator[TextRow]:
    require_package("pyarrow", f" to read {path}")
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with _seekable(path) as content, pq.ParquetFile(content, **_PAGE_BY_PAGE) as file:
            _require_column(file.schema_arrow, column, str(path))
            for batch in file.iter_batches(
                _BATCH_ROWS, columns=[column, *others], use_threads=False
            ):
                for values in zip(*batch.columns, strict=True):
                    row = {n: v.as_py() for n, v in zip(batch.schema.names, values, strict=True)}
                    number += 1
                    text = _text_of(row, column, f"{path}, row {number}")
                    yield TextRow(text, number, _present(row, others))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} after row {number}: {error}.") from error


@contextmanager
def _seekable(path: Path) -> Iterator[Path | BinaryIO]:
    """Return what Parquet, whose index is at the end, can be read from: plain bytes on disk."""
    if not is_compressed(path):
        yield path
        return
    with TemporaryFile() as plain:
        with reading(path), open_plain(path) as file:
            shutil.copyfileobj(file, plain)
        yield plain


def dataset_rows(
    dataset: Dataset, name: str, column: str, others: Sequence[str] = ()
) -> Iterator[TextRow]:
    """Yield the rows of a dataset of the `datasets` library, called `name` in errors."""
    _require_column(dataset.features.arrow_schema, column, name)
    wanted = {column, column.partition(".")[0], *others}
    chosen = dataset.select_columns([c for c in dataset.column_names if c in wanted])
    number = 0
    for batch in chosen.with_format(None).iter(_BATCH_ROWS):
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            number += 1
            text = _text_of(row, column, f"{name}, row {number}")
            yield TextRow(text, number, _present(row, others))


def _require_column(schema: pa.Schema, column: str, place: str) -> None:
    if not _has_field(schema, column):
        raise UsageError(
            f"{place}: no column `{column}`, only {schema.names[:10]}. Name the column of the text"
            " with --text-column, or `text_column` in a recipe."
        )


def _has_field(fields: pa.Schema | pa.StructType, name: str) -> bool:
    import pyarrow as pa

    types = {field.name: field.type for field in fields}
    column, dot, field = name.partition(".")
    if name in types or not dot or column not in types:
        return name in types
    return pa.types.is_struct(types[column]) and _has_field(types[column], field)
