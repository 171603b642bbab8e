"""Reading documents one at a time from text, JSONL and Parquet files, or from a named dataset."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cdgen.errors import UsageError
from cdgen.packages import require_package
from cdgen.storage import sha256_of

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz", ".txt.xz", ".jsonl.xz", ".parquet")
MAX_LINE_BYTES = 64 << 20
_BATCH_ROWS = 256


def read_documents(source: str) -> Iterator[str]:
    """Yield every document with visible text, in order. Raises UsageError with file and line."""
    files = _find_files(source)
    texts = hub_texts(source) if files is None else (t for f in files for t in file_texts(f))
    return (text for text in texts if text.strip())


def hash_source(source: str) -> str:
    """Return the sha256 of a file, of the hashes of a folder's files, or of a dataset's texts."""
    try:
        files = _find_files(source)
        if files is not None and Path(source).is_file():
            return sha256_of(files[0])
        parts = (
            (text.encode() for text in hub_texts(source))
            if files is None
            else (sha256_of(file).encode() for file in files)
        )
        digest = hashlib.sha256()
        for part in parts:
            digest.update(b"%d:%s" % (len(part), part))
        return digest.hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}.") from error


def _find_files(source: str) -> list[Path] | None:
    """Return the files that `source` means, or None if it can only be a dataset's name."""
    path = Path(source)
    expected = f"expected {', '.join(SUFFIXES)}, or a folder of them"
    if not source:  # an unset shell variable; Path("") would be the current folder
        raise UsageError(f"--prompts: got an empty name; {expected}, or a `datasets` name.")
    if path.is_dir():
        files = usable_files(path)
        if not files:
            raise UsageError(f"{source}: no usable file in this folder; {expected}.")
        return files
    if path.exists():
        if not source.endswith(SUFFIXES):
            raise UsageError(f"{source}: unknown kind of file; {expected}.")
        return [path]
    if not may_be_dataset(source):
        raise UsageError(f"{source}: no such file or folder.")
    return None


def usable_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and p.is_file())


def may_be_dataset(name: str) -> bool:
    """Return whether `name` could be a dataset (NAME or OWNER/NAME), not a missing file."""
    return not name.endswith(SUFFIXES) and bool(re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name))


def file_texts(path: Path) -> Iterator[str]:
    if path.name.endswith(".parquet"):
        return _parquet_texts(path)
    if path.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.xz")):
        return (
            _json_text(line, f"{path}, line {n}")
            for n, line in numbered_lines(path)
            if line.strip()
        )
    return (line for _, line in numbered_lines(path))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines without their ends, holding at most MAX_LINE_BYTES of one."""
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
    offset = 0
    try:
        with openers.get(path.suffix, open)(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise UsageError(
                        f"{path}, line {number}: longer than {MAX_LINE_BYTES >> 20} MB. "
                        "Split it into documents, one per line."
                    )
                yield number, _decode(line, path, number, offset)
                offset += len(line)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UsageError(f"cannot read {path}: {error}.") from error


def _decode(line: bytes, path: Path, number: int, offset: int) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}, line {number}: not UTF-8 at byte {offset + error.start} of the file "
            f"({error.reason}). Convert the file to UTF-8."
        ) from error
    return text.removeprefix("\ufeff" if offset == 0 else "").rstrip("\r\n")


def _json_text(line: str, place: str) -> str:
    return str(json_row(line, place)["text"])


def json_row(line: str, place: str) -> dict[str, Any]:
    """Return the object in a line, which must have a string under "text". Raises UsageError."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: not JSON ({error}).") from error
    if not isinstance(row, dict) or "text" not in row:
        raise UsageError(f'{place}: expected an object with "text", got {line.strip()[:60]}')
    _checked_text(row["text"], place)
    return row


def _checked_text(text: object, place: str) -> str:
    if not isinstance(text, str):
        raise UsageError(f'{place}: expected "text" to be a string, got {type(text).__name__}.')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f'{place}: "text" holds half of a surrogate pair.') from error
    return text


def _parquet_texts(path: Path) -> Iterator[str]:
    require_package("pyarrow", f" to read {path}")
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise UsageError(f"{path}: no column `text`, only {file.schema_arrow.names[:10]}.")
            for batch in file.iter_batches(_BATCH_ROWS, columns=["text"], use_threads=False):
                for text in batch.column(0):
                    row += 1
                    yield _checked_text(text.as_py(), f"{path}, row {row}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} after row {row}: {error}.") from error


def hub_texts(name: str) -> Iterator[str]:
    require_package("datasets", f", or give a file: {name} is none here")
    import datasets

    try:
        rows = datasets.load_dataset(name, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"{name}: no such file or folder here, and `datasets` cannot load a dataset "
            f"of that name: {str(error).splitlines()[0]}"
        ) from error
    if "text" not in rows.column_names:
        raise UsageError(f"{name}: no column `text`, only {rows.column_names[:10]}.")
    for number, row in enumerate(rows.select_columns("text"), start=1):
        yield _checked_text(row["text"], f"{name}, row {number}")
