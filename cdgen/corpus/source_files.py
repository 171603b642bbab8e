"""The files that a folder of documents holds: those to read, and those that are documentation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cdgen.corpus.text_files import EXPECTED, kind_of
from cdgen.errors import UsageError

# Files about a dataset, which are not read as its documents: names without endings or with .txt,
# and whole names; the last three are left by writers of Parquet and by Spark.
_ABOUT = (
    *("authors", "changelog", "changes", "citation", "contributing", "copying", "licence"),
    *("license", "notice", "readme"),
)
_ABOUT_NAMES = (
    "dataset_info.json",
    "dataset_infos.json",
    "_metadata",
    "_common_metadata",
    "_success",
)
_ABOUT_SUFFIXES = (".md", ".rst", ".cff", ".bib")
_SHOWN = 5


def files_in(folder: Path, label: str) -> tuple[list[Path], list[str]]:
    """Return the files to read in a folder and the folders below it, in order of their paths, and
    the names of what is only documentation or hidden.

    Raises UsageError that names every other file: a corpus of a part of a folder would be a
    surprise.
    """
    files, about, unknown = [], [], []
    for path in sorted(_paths(folder)):
        name = str(path.relative_to(folder))
        if _is_about(path.name):
            about.append(name + "/" * path.is_dir())
        elif kind_of(path.name):
            files.append(path)
        else:
            unknown.append(name)
    if not files:
        raise UsageError(f"{label}: no usable file in this folder; {EXPECTED}.")
    if unknown:
        raise UsageError(
            f"{label}: cannot read {shortened(unknown)}; {EXPECTED}. Convert them or move them out:"
            " a folder is read as a whole."
        )
    return files, about


def shortened(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _is_about(name: str) -> bool:
    name = name.lower()
    is_known = name.removesuffix(".txt") in _ABOUT or name in _ABOUT_NAMES
    return is_known or name.startswith(".") or name.endswith(_ABOUT_SUFFIXES)


def _paths(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder`, and hidden folders without what they hold. Links are
    followed, but no folder is entered twice."""
    entered = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(root)) in entered:
            folders.clear()
            continue
        entered.add(real)
        yield from (Path(root, name) for name in names)
        yield from (Path(root, name) for name in folders if name.startswith("."))
        folders[:] = (name for name in folders if not name.startswith("."))
