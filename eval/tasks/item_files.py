"""The data files of choice tasks, JSON Lines and tables of tab-separated values, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdgen.corpus.json_values import json_values
from cdgen.corpus.text_files import is_json_document, kind_of, numbered_lines, plain_name, stem_of
from cdgen.errors import UsageError

Line = dict[str, Any]  # the JSON object on one line of a data file, or the cells of a row by column


def lines_files(folder: Path) -> list[tuple[str, Path]]:
    """Return the .jsonl files of a folder, compressed or not, in the order of their names, each
    after the name without endings. Raises UsageError if there is none."""
    found = [(stem_of(path.name), path) for path in _visible(folder) if _holds_lines(path)]
    return _some(found, f"{folder}: expected .jsonl files with one item per line")


def _some(found: list[tuple[str, Path]], expected: str) -> list[tuple[str, Path]]:
    if not found:
        raise UsageError(f"{expected}, found none")
    return found


def language_files(folder: Path) -> list[tuple[str, Path]]:
    """Return .jsonl and .tsv files, each after its language: the file's name without endings, or,
    as in the released LANGUAGE/data.tsv, the folder's that it stands in. Raises UsageError."""
    found = []
    for path in _visible(folder):
        inside = _visible(path) if path.is_dir() else [path]
        language = path.name if path.is_dir() else stem_of(path.name)
        found += [(language, file) for file in inside if _holds_lines(file) or _is_table(file)]
    return _some(
        found, f"{folder}: expected LANGUAGE.jsonl, LANGUAGE.tsv or LANGUAGE/data.tsv files"
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _holds_lines(path: Path) -> bool:
    return kind_of(path.name) == "json" and not is_json_document(path.name)


def _is_table(path: Path) -> bool:
    return plain_name(path.name).endswith(".tsv")


def numbered_rows(path: Path) -> Iterator[tuple[int, Line]]:
    """Yield the rows of a file with the numbers of their lines; blank lines are skipped.

    Raises UsageError naming file and line.
    """
    return _table_rows(path) if _is_table(path) else _json_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[int, Line]]:
    for place, number, line in json_values(path):
        if not isinstance(line, dict):
            raise UsageError(f"{place}: expected an object, got {line!r:.40}")
        yield number, line


def _table_rows(path: Path) -> Iterator[tuple[int, Line]]:
    """Read a table with a header, quoted as pandas writes it: a cell with a quotation mark stands
    in quotes, its own marks doubled. No cell spans lines: a quote that stays open is an error."""
    reader = csv.reader((line for _, line in numbered_lines(path)), "excel-tab", strict=True)
    header: list[str] = []
    number = 1
    try:
        for cells in reader:
            if reader.line_num > number:
                raise csv.Error("the quotation mark that opens a cell is not closed on its line")
            if header and cells and len(cells) != len(header):
                raise csv.Error(f"expected {len(header)} cells, as in the header, got {len(cells)}")
            if header and cells:
                yield number, dict(zip(header, cells, strict=True))
            header = header or cells
            number += 1
    except csv.Error as error:
        raise UsageError(f"{path}, line {number}: {error}") from error
