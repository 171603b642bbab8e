"""The values of a JSON file: one per line, or the items of one array."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from cdgen.corpus import text_files
from cdgen.corpus.text_files import is_json_document, numbered_lines, open_plain, reading
from cdgen.errors import UsageError

_CHUNK_CHARACTERS = 1 << 20
_BETWEEN_ITEMS = re.compile(r"[\s,]*")


def json_values(path: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield the place, the number and the value of every line of JSON that is not blank; of a .json
    file that is one array, those of its items. Raises UsageError with the place."""
    if is_json_document(path.name) and _begins_array(path):
        yield from _array_items(path)
        return
    for number, line in numbered_lines(path):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{place}: not JSON ({error}).") from error
            yield place, number, value


def _begins_array(path: Path) -> bool:
    with _characters(path) as file:
        while chunk := file.read(4096):
            if begun := chunk.lstrip():
                return begun[0] == "["
    return False


def _array_items(path: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield the items of the array, holding little more than one of them."""
    decoder, number = json.JSONDecoder(), 0
    with _characters(path) as file:
        buffer = file.read(_CHUNK_CHARACTERS)
        at = buffer.index("[") + 1
        while True:
            at = cast(re.Match[str], _BETWEEN_ITEMS.match(buffer, at)).end()
            if buffer.startswith("]", at):
                return
            place = f"{path}, item {number + 1}"
            try:
                value, at = decoder.raw_decode(buffer, at)
            except (ValueError, RecursionError) as error:
                buffer, at = buffer[at:], 0
                more = file.read(max(_CHUNK_CHARACTERS, len(buffer)))
                if not more or len(buffer) > text_files.MAX_LINE_BYTES:
                    raise UsageError(f"{place}: not JSON, or too long ({error}).") from error
                buffer += more
                continue
            number += 1
            yield place, number, value


@contextmanager
def _characters(path: Path) -> Iterator[io.TextIOWrapper]:
    with reading(path), open_plain(path) as file:
        try:
            yield io.TextIOWrapper(file, encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8 ({error.reason}). Convert it to UTF-8.") from error
