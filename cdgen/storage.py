"""Files that are either complete or absent, records with their own checksum, and locks.

Every file of a corpus is written by `write_atomic`: temporary file in the same folder, fsync,
rename, fsync of the folder (heartbeats without fsync). A process killed at any moment leaves the
old file or the new one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cdgen.errors import LockHeld, StorageError

# The states of the disk between two system calls, in the order in which a file goes through them.
CRASH_POINTS = (
    "before-write",  # the temporary file exists; before each write to it
    "after-write",  # after each write, nothing synced yet
    "after-fsync",  # the temporary file is durable, its name is still temporary
    "after-rename",  # the file has its name, the folder is not synced
    "after-folder-fsync",  # the file is durable
    "before-remove",  # before a file is deleted
    "after-remove",
)
_BUFFER_BYTES = 1 << 20
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_passings: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The size and hash of a file that reached the disk."""

    bytes: int
    sha256: str


def crash_point(name: str) -> None:
    """Kill this process if the environment asks for it, in a test: CDGEN_CRASH_AT="POINT:N".

    The process dies by SIGKILL when it passes POINT (one of CRASH_POINTS) for the N-th time,
    counted from 1. No handler, `finally` or buffer flush runs, as in a real kill -9.
    """
    point, _, passing = os.environ.get("CDGEN_CRASH_AT", "").partition(":")
    if point != name:
        return
    _passings[name] = _passings.get(name, 0) + 1
    if _passings[name] == int(passing):
        os.kill(os.getpid(), signal.SIGKILL)


class _HashingFile(io.FileIO):
    """A raw file that hashes the bytes the operating system accepted."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb", opener=_open_no_link)
        self.digest = hashlib.sha256()
        self.written = 0

    def write(self, data: Any) -> int:  # `data`: any bytes-like object
        crash_point("before-write")
        count = super().write(data)
        self.digest.update(memoryview(data)[:count])
        self.written += count
        crash_point("after-write")
        return count


def _open_no_link(path: str, flags: int) -> int:
    """Open a temporary file, and no link that somebody put in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def write_atomic(
    path: Path, content: bytes | Callable[[BinaryIO], None], durably: bool = True
) -> WriteResult:
    """Replace `path` by `content`, or by what the function `content` writes to its argument.

    Not `durably`, a power loss may leave an empty file: for what the next moment replaces anyway.

    The function must write front to back. On any exception the temporary file is removed and
    `path` is untouched; an OSError becomes a StorageError. Callers that may write the same path at
    the same time must hold a lock.
    """
    temporary = temporary_of(path)
    try:
        written = _write(temporary, content, durably)
        os.replace(temporary, path)
        crash_point("after-rename")
        if durably:
            sync_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}. "
            "Ranges committed before are kept: remove the cause, then run the same command again."
        ) from error
    except BaseException:
        _discard(temporary)
        raise
    return written


def _write(path: Path, content: bytes | Callable[[BinaryIO], None], durably: bool) -> WriteResult:
    raw = _HashingFile(path)
    with io.BufferedWriter(raw, _BUFFER_BYTES) as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        if durably:
            os.fsync(raw.fileno())
            crash_point("after-fsync")
    return WriteResult(raw.written, raw.digest.hexdigest())


def _discard(path: Path) -> None:
    with suppress(OSError):  # report the error that led here, not this one
        path.unlink(missing_ok=True)


def temporary_of(path: Path) -> Path:
    """Return the path at which `path` is first written: hidden, so that no data glob matches it."""
    return path.with_name(f".{path.name}.tmp")


def sync_folder(folder: Path) -> None:
    """Make renames and deletions in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    crash_point("after-folder-fsync")


def sync_files(folder: Path) -> dict[str, int]:
    """Make the files directly in `folder` durable, with their names; return their sizes.

    For files that a library wrote: `write_atomic` syncs its own.
    """
    sizes = {}
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            sizes[path.name] = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    sync_folder(folder)
    return sizes


def remove_file(path: Path) -> None:
    """Delete `path` if it exists. Raises StorageError."""
    crash_point("before-remove")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot delete {path}: {error.strerror}.") from error
    crash_point("after-remove")


def remove_folder(path: Path) -> None:
    """Delete the empty folder `path`, durably. Raises StorageError."""
    try:
        path.rmdir()
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot delete the folder {path}: {error.strerror}.") from error


def remove_tree(path: Path) -> None:
    """Delete the folder `path` and all in it, if it exists. Raises StorageError."""
    try:
        if path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise StorageError(f"cannot delete the folder {path}: {error.strerror}.") from error


def remove_temporaries(folder: Path, mine: Callable[[str], bool] = lambda name: True) -> None:
    """Delete the temporary files that dead writers left in `folder`, which need not exist.

    Only names that satisfy `mine` are deleted: the caller must hold the lock of their writers.
    """
    if not folder.exists():
        return
    with os.scandir(folder) as entries:  # an iterator: a folder of ranges can be long
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(".tmp") and mine(entry.name):
                remove_file(Path(entry.path))


def make_folder(path: Path) -> None:
    """Create `path` and its parents, durably. Raises StorageError."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot create the folder {path}: {error.strerror}.") from error


def require_space(folder: Path, needed_bytes: int, purpose: str, advice: str = "") -> None:
    """Raise StorageError if the file system of `folder` has less than `needed_bytes` free.

    The message says what they are for, and what to do besides making room.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StorageError(
            f"the disk of {folder} is too small: about {_size(needed_bytes)} needed for {purpose},"
            f" {_size(free)} free. Make room{advice}, then run the same command again."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(fields: Mapping[str, Any]) -> bytes:
    """Return `fields` as canonical JSON: keys sorted, two-space indent, shortest exact floats."""
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def record_checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(fields)).hexdigest()


def write_record(path: Path, fields: Mapping[str, Any], durably: bool = True) -> None:
    """Write a JSON object with its own sha256 under the key `checksum`."""
    content = canonical_json({**fields, "checksum": record_checksum(fields)})
    write_atomic(path, content, durably)


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote. Raises StorageError if a single byte of it has changed."""
    try:
        data = path.read_bytes()
        fields = json.loads(data)
        del fields["checksum"]
        intact = canonical_json({**fields, "checksum": record_checksum(fields)}) == data
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise StorageError(f"{path} is damaged: its content does not match its own checksum.")
    return fields


@contextmanager
def lock(path: Path, busy: str | None = None) -> Iterator[int]:
    """Hold an exclusive lock on the file `path` until the block or the process ends.

    Wait for the present holder, or, if `busy` is given, raise LockHeld with that message. Yield the
    descriptor: processes that inherit it hold the lock as well.
    """
    descriptor = _lock_file(path, busy)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock_file(path: Path, busy: str | None) -> int:
    while True:
        make_folder(path.parent)
        try:
            descriptor = os.open(path, _LOCK_FLAGS, 0o644)
        except FileNotFoundError:  # another process removed the folder after its own set-up failed
            continue
        except OSError as error:
            raise StorageError(f"cannot create the lock {path}: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:  # the same, while we waited: our lock is on a deleted file
            pass
        except OSError as error:
            os.close(descriptor)
            if busy and error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise LockHeld(busy) from error
            raise StorageError(
                f"cannot lock {path}: {error.strerror}. Mount its file system with locks (flock),"
                " or choose a folder on another one."
            ) from error
        os.close(descriptor)
