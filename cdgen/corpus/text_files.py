"""Files of text, plain or compressed: the names they have, and their lines."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, cast

from cdgen.errors import UsageError, one_line
from cdgen.packages import require_package

Kind = Literal["text", "json", "parquet"]
_COMPRESSIONS = (".gz", ".xz", ".zst")
_KINDS: dict[str, Kind] = {
    **dict.fromkeys((".txt", ".text", ".train", ".dev", ".valid", ".test"), "text"),  # by line
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    ".parquet": "parquet",
}
EXPECTED = f"expected {', '.join(_KINDS)}, plain or as {', '.join(_COMPRESSIONS)}"
MAX_LINE_BYTES = 64 << 20


def kind_of(name: str) -> Kind | None:
    """Return what a file of this name holds, or None if cdgen does not read such files."""
    return _KINDS.get(Path(plain_name(name)).suffix)


def is_json_document(name: str) -> bool:
    """Return whether the name ends in .json: such a file may be one array instead of lines."""
    return plain_name(name).endswith(".json")


def stem_of(name: str) -> str:
    """Return the name of a file without the endings that tell its kind and its compression."""
    return name[: len(Path(plain_name(name)).stem)]


def plain_name(name: str) -> str:
    """Return the name of a file in lower case, without the ending that tells its compression."""
    lower = name.lower()
    return next((lower.removesuffix(c) for c in _COMPRESSIONS if lower.endswith(c)), lower)


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in _COMPRESSIONS


def open_plain(path: Path) -> BinaryIO:
    """Open a file, compressed or not, to read its plain bytes."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    if suffix == ".zst":
        require_package("pyarrow", f" to read {path}")
        import pyarrow as pa

        stream = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        return cast(BinaryIO, io.BufferedReader(stream, 1 << 20))
    return path.open("rb")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while `path` is read into a UsageError that names it."""
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"cannot read {path}: {reason}.") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines without their ends, holding at most MAX_LINE_BYTES of one.

    A byte order mark at the beginning is no part of the first line. Raises UsageError with the
    line.
    """
    offset = number = 0
    with reading(path), open_plain(path) as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise UsageError(
                    f"{path}, line {number}: longer than {MAX_LINE_BYTES >> 20} MB. "
                    "Split it into documents, one per line."
                )
            yield number, _decode(line, path, number, offset)
            offset += len(line)


def _decode(line: bytes, path: Path, number: int, offset: int) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}, line {number}: not UTF-8 at byte {offset + error.start} of the file "
            f"({error.reason}). Convert the file to UTF-8."
        ) from error
    return text.removeprefix("\ufeff" if offset == 0 else "").rstrip("\r\n")
