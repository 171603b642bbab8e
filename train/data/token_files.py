"""Blocks of tokens on disk, memory-mapped: made once, then reused until something they depend on
changes.

FOLDER/KEY/ holds one .npy file per array and facts.json, which is written last and has the files'
sha256. KEY is a hash of everything that decides the content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cdgen.errors import StorageError
from cdgen.storage import (
    canonical_json,
    lock,
    make_folder,
    read_record,
    sha256_of,
    write_atomic,
    write_record,
)

_FORMAT = 4  # of the files and of their making: raise it when either changes


@dataclass(frozen=True)
class Tokens:
    arrays: dict[str, np.ndarray]  # [blocks, block_size] int32
    facts: dict[str, Any]  # JSON values


def reuse_or_build(
    folder: Path | None, key: Mapping[str, Any], build: Callable[[], Tokens]
) -> Tokens:
    """Return the result of `build`, from disk if it is there; a second process waits for the first.

    Without a folder it is built anew and kept in memory. Raises StorageError.
    """
    if folder is None:
        return build()
    entry = _entry(folder, key)
    make_folder(folder)
    with lock(folder / f"{entry.name}.lock"):
        if (found := _read(entry, "it is made again")) is None:
            _write(entry, build())
            found = _read(entry, "it is made again")
    if found is None:
        raise StorageError(f"{entry}: was damaged as soon as it was written; check the disk")
    return found


def find(folder: Path, key: Mapping[str, Any]) -> Tokens | None:
    """Return what `reuse_or_build` left in `folder` for this key, or None if it is not there."""
    return _read(_entry(folder, key), "passed over")


def _entry(folder: Path, key: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(canonical_json({**key, "format": _FORMAT})).hexdigest()
    return folder / digest[:32]


def _read(entry: Path, then: str) -> Tokens | None:
    """Read an entry; return None, with a message, if a file is damaged or missing. `then` says what
    happens then."""
    if not (entry / "facts.json").exists():
        return None
    try:
        record = read_record(entry / "facts.json")
        if all(sha256_of(entry / file) == sha for file, sha in record["sha256"].values()):
            # Copy on write, because torch warns about read-only arrays.
            arrays = {
                name: np.load(entry / file, mmap_mode="c")
                for name, (file, _) in record["sha256"].items()
            }
            return Tokens(arrays, record["facts"])
    except (StorageError, OSError) as error:
        print(f"{entry}: {error}")
    print(f"{entry}: damaged; {then}")
    return None


def _write(entry: Path, tokens: Tokens) -> None:
    make_folder(entry)
    files = {}
    for number, (name, array) in enumerate(tokens.arrays.items()):
        file = f"{number}.npy"  # a source's name may contain a slash
        files[name] = (file, write_atomic(entry / file, partial(_save, array)).sha256)
    write_record(entry / "facts.json", {"sha256": files, "facts": tokens.facts})


def _save(array: np.ndarray, file: BinaryIO) -> None:
    """Write an array through `file`: numpy.save would bypass the file object that hashes the
    bytes."""
    array = np.ascontiguousarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header)
    if array.size:
        file.write(array.data.cast("B"))
