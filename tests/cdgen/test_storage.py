"""What the disk refuses is said with the path and the reason."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from cdgen.errors import StorageError
from cdgen.storage import lock, read_record, remove_file, remove_folder, require_space


def refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_file_that_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlink(self: Path, missing_ok: bool = False) -> None:
        raise refuse(errno.EPERM)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(StorageError, match=r"cannot delete .*/a: Operation not permitted"):
        remove_file(tmp_path / "a")


def test_a_folder_that_cannot_be_deleted(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(StorageError, match=r"cannot delete the folder .*: Directory not empty\."):
        remove_folder(tmp_path)


def test_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*/a: No such file or directory\."):
        read_record(tmp_path / "a")


@pytest.mark.parametrize("busy", [None, "somebody else"], ids=["waits", "does not wait"])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, busy: str | None
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise refuse(number)

    monkeypatch.setattr(fcntl, "flock", flock)
    message = rf"cannot lock .*/a: {os.strerror(number)}\. Mount its file system with locks"
    with pytest.raises(StorageError, match=message), lock(tmp_path / "a", busy):
        pass


def test_a_lock_that_cannot_be_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot_open(*_: object) -> None:
        raise refuse(errno.EDQUOT)

    monkeypatch.setattr(os, "open", cannot_open)
    message = r"cannot create the lock .*/a: Disk quota exceeded"
    with pytest.raises(StorageError, match=message), lock(tmp_path / "a"):
        pass


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    require_space(tmp_path, 0, "nothing")
    message = (
        rf"the disk of {tmp_path} is too small: about 1,000,000\.0 GB needed for dreams, .* free\."
        " Make room or dream less, then run the same command again"
    )
    with pytest.raises(StorageError, match=message):
        require_space(tmp_path, 10**15, "dreams", " or dream less")
