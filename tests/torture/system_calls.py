"""The calls by which a process changes the disk below OUT: listed, failing, or its last."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdgen import storage

KINDS = ("create", "write", "fsync", "rename", "mkdir", "unlink", "rmdir")
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES", "EDQUOT")}
Call = Callable[[], Any]
Around = Callable[[str, str, Call], Any]  # kind of call, path within OUT, the call itself


def watch(out: Path, around: Around) -> None:
    """Hand every call of this process that changes the disk below `out` to `around`."""

    def watched(kind: str, call: Callable[..., Any], path_of: Callable[..., str]) -> Any:
        def instead(*arguments: Any, **options: Any) -> Any:
            path = os.path.abspath(path_of(*arguments, **options))
            if path != str(out) and not path.startswith(f"{out}{os.sep}"):
                return call(*arguments, **options)
            return around(kind, os.path.relpath(path, out), lambda: call(*arguments, **options))

        return instead

    raw = storage._HashingFile
    raw.__init__ = watched("create", raw.__init__, lambda _, path: path)  # type: ignore[method-assign]
    raw.write = watched("write", raw.write, lambda file, _: file.name)  # type: ignore[method-assign]
    os.fsync = watched("fsync", os.fsync, _path_of_descriptor)
    os.replace = watched("rename", os.replace, lambda _, target: target)
    os.rename = watched("rename", os.rename, lambda _, target: target)
    os.mkdir = watched("mkdir", os.mkdir, lambda path, *_, **__: path)
    os.unlink = watched("unlink", os.unlink, _path_in)
    os.rmdir = watched("rmdir", os.rmdir, _path_in)


@contextmanager
def watching(out: Path, around: Around) -> Iterator[None]:
    """Do the same until the block ends."""
    names = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")
    places: list[tuple[Any, str]] = [(os, name) for name in names]
    places += [(storage._HashingFile, name) for name in ("__init__", "write")]
    before = [getattr(owner, name) for owner, name in places]
    watch(out, around)
    try:
        yield
    finally:
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, call)


def _path_of_descriptor(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _path_in(path: Any, *, dir_fd: int | None = None) -> str:
    return os.path.join("" if dir_fd is None else _path_of_descriptor(dir_fd), path)


def list_calls(listed: Path) -> Around:
    """Write the kind and the path of every call into a file, a line each."""
    file = os.open(listed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def around(kind: str, path: str, call: Call) -> Any:
        os.write(file, f"{kind} {path}\n".encode())
        return call()

    return around


class Nth:
    """Let the n-th call of one kind, counted from 1, go through `act`."""

    def __init__(self, kind: str, nth: int, act: Callable[[Call], Any]) -> None:
        self.kind, self.left, self.act = kind, nth, act

    def __call__(self, kind: str, path: str, call: Call) -> Any:
        self.left -= kind == self.kind
        if kind == self.kind and self.left == 0:
            return self.act(call)
        return call()


class From:
    """Let every call fail from the n-th of all on, as on a disk that becomes read-only."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, kind: str, path: str, call: Call) -> Any:
        self.left -= 1
        return call() if self.left > 0 else fail(errno.EROFS)(call)


def fail(code: int) -> Callable[[Call], Any]:
    def act(call: Call) -> Any:
        raise OSError(code, os.strerror(code))

    return act


def die_before(call: Call) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(call: Call) -> Any:
    try:
        call()
    finally:  # one that removes what is not there raises
        os.kill(os.getpid(), signal.SIGKILL)


def write_short(_: Path, nth: int, fills_up: bool) -> None:
    """Let the kernel take only half of the n-th write; with `fills_up`, and nothing after it."""
    write, left = storage._HashingFile.write, nth

    def half(file: Any, data: Any) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            return write(file, memoryview(data)[: len(data) // 2])
        if left < 0 and fills_up:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    storage._HashingFile.write = half  # type: ignore[method-assign]
