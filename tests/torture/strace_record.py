"""The changes of the disk by a command, recorded with strace.

So those by torch, safetensors and pyarrow are there as well as our own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from commands import Change, start, unchanged

STRACE = shutil.which("strace")
_TRACED = (
    "open,openat,creat,close,dup,dup2,dup3,write,pwrite64,writev,pwritev,lseek,truncate,ftruncate,"
    "fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,link,linkat,"
    "symlink,symlinkat,copy_file_range,sendfile,fallocate,fork,vfork,clone,clone3"
)
_CLONES = ("fork", "vfork", "clone", "clone3")


@dataclass(frozen=True)
class Event:
    """A change of the disk, or a sync. Paths begin with the name of the recorded folder, and the
    folder that it is in is `.`."""

    kind: str  # create, write, truncate, sync, mkdir, symlink, rename, unlink, rmdir
    path: str
    data: bytes = b""  # of a write; where a symlink leads
    offset: int = 0  # of a write; the size of a truncate
    target: str = ""  # of a rename


def record(
    arguments: Sequence[str], said: Path, out: Path, change: Change = unchanged
) -> list[Event]:
    """Run a command under strace; return what it and the processes that it started did to the disk
    below the parent of `out`.

    Raises RuntimeError if the command fails.
    """
    log = said.with_suffix(".strace")
    log.unlink(missing_ok=True)
    read, write = os.pipe()

    def wait_then_change() -> None:
        os.read(read, 1)
        change()

    command = start(arguments, said, wait_then_change)
    tracing = subprocess.Popen(
        [*trace_into(log), "-p", str(command.pid)], stderr=subprocess.DEVNULL
    )
    status = Path(f"/proc/{command.pid}/status")
    while "TracerPid:\t0\n" in status.read_text():
        if tracing.poll() is not None:
            raise RuntimeError("strace cannot attach")
        time.sleep(0.002)
    os.write(write, b"x")
    code = command.wait()
    tracing.wait()
    os.close(read)
    os.close(write)
    if code:
        raise RuntimeError(f"{arguments} ended with {code}: {said.read_text()}")
    return parse_log(log, out)


def trace_into(log: Path) -> list[str]:
    """Return the command of strace, to be followed by what is traced."""
    strings = ("-y", "-xx", "-s", "100000000")
    return [STRACE or "strace", "-f", *strings, "-e", f"trace={_TRACED}", "-o", str(log)]


def parse_log(log: Path, out: Path) -> list[Event]:
    """Return what the traced processes did to the disk below the parent of `out`."""
    return list(_Parser(out).events(log))


@dataclass
class _Opened:
    """An open file. Descriptors that were duplicated or inherited share it."""

    appending: bool
    offset: int = 0


_Table = dict[str, _Opened]  # by descriptor


class _Parser:
    """Reads strace's log. The threads of a process share one table of descriptors."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.parents: dict[str, tuple[str, bool]] = {}  # of threads; whether they share the table
        self.tables: dict[str, _Table] = {}  # by thread

    def events(self, log: Path) -> Iterator[Event]:
        calls = list(self._calls(log))  # all of them: a child may begin before its clone returns
        for thread, call, arguments, result, opened in calls:
            table = self._table(thread)
            if call in _CLONES:
                self._table(result)
            else:
                yield from self._event(table, call, arguments, result, opened)

    def _calls(self, log: Path) -> Iterator[tuple[str, str, str, str, str]]:
        """Yield thread, call, arguments, result and the path of a descriptor that is the result;
        note who cloned whom."""
        waiting: dict[str, str] = {}  # by thread, the first half of an interrupted line
        for line in log.read_text().splitlines():
            thread, _, rest = line.partition(" ")
            rest = rest.lstrip()
            if rest.endswith(" <unfinished ...>"):
                waiting[thread] = rest.removesuffix(" <unfinished ...>")
                continue
            if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", rest):
                rest = waiting.pop(thread) + resumed[1]
            if found := re.fullmatch(r"(\w+)\((.*)\)\s+= (\d+)(?:<([^>]*)>)?.*", rest):
                call, arguments, result, opened = found.groups(default="")
                if call in _CLONES:
                    self.parents[result] = thread, "CLONE_FILES" in arguments
                yield thread, call, arguments, result, opened

    def _table(self, thread: str) -> _Table:
        """Return the descriptors of a thread; of a new one, those that it got from its parent."""
        if thread not in self.tables:
            parent, shares = self.parents.get(thread, ("", False))
            inherited = self.tables.get(parent, {})
            self.tables[thread] = inherited if shares else dict(inherited)
        return self.tables[thread]

    def _event(
        self, table: _Table, call: str, arguments: str, result: str, opened: str
    ) -> Iterator[Event]:
        strings = [_bytes(text) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        number, path = "", ""
        if held := re.match(r"(\d+)<((?:\\x[0-9a-f]{2})*)>", arguments):
            number, path = held[1], self._inside(_bytes(held[2]))
        if call in ("open", "openat", "creat"):
            table[result] = _Opened("O_APPEND" in arguments)
            yield from self._open(arguments, self._inside(_bytes(opened)))
        elif call in ("dup", "dup2", "dup3"):
            if number in table:
                table[result] = table[number]
        elif call == "close":
            table.pop(number, None)
        elif call == "lseek":
            if number in table:
                table[number].offset = int(result)
        elif call in ("write", "writev", "pwrite64") and path:
            data = b"".join(strings)[: int(result)]
            yield self._write(call, arguments, table[number], path, data)
        elif call == "ftruncate" and path:
            yield Event("truncate", path, offset=int(arguments.rpartition(", ")[2]))
        elif call in ("fsync", "fdatasync") and path:
            yield Event("sync", path)
        elif call.startswith("symlink"):
            yield from self._link(arguments, strings)
        elif call not in ("fsync", "fdatasync", "write", "writev", "pwrite64", "ftruncate"):
            yield from self._names(call, arguments, [self._inside(name) for name in strings])

    def _open(self, arguments: str, path: str) -> Iterator[Event]:
        if path and "O_CREAT" in arguments:
            yield Event("create", path)
        if path and "O_TRUNC" in arguments:
            yield Event("truncate", path)

    def _write(self, call: str, arguments: str, file: _Opened, path: str, data: bytes) -> Event:
        if call == "pwrite64":
            return Event("write", path, data, int(arguments.rpartition(", ")[2]))
        if file.appending:
            return Event("write", path, data, -1)
        offset = file.offset
        file.offset = offset + len(data)
        return Event("write", path, data, offset)

    def _link(self, arguments: str, strings: Sequence[bytes]) -> Iterator[Event]:
        if path := self._inside(strings[1]):  # Python names it by a path, not within a descriptor
            yield Event("symlink", path, strings[0])

    def _names(self, call: str, arguments: str, paths: list[str]) -> Iterator[Event]:
        folders = re.findall(r"(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>", arguments)
        if call in ("unlinkat", "mkdirat", "renameat", "renameat2") and folders:
            names = [_bytes(text) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
            whole = zip(folders, names, strict=True)
            paths = [self._inside(os.path.join(_bytes(f), name)) for f, name in whole]
        if not all(paths) or not paths:
            return
        if call.startswith("rename"):
            yield Event("rename", paths[0], target=paths[1])
        elif call.startswith("mkdir"):
            yield Event("mkdir", paths[0])
        elif call == "rmdir" or "AT_REMOVEDIR" in arguments:
            yield Event("rmdir", paths[0])
        elif call.startswith("unlink"):
            yield Event("unlink", paths[0])
        else:
            raise RuntimeError(f"a call that the record does not cover: {call}({arguments})")

    def _inside(self, path: bytes) -> str:
        """Return a path of `out`, or of the folder that it is in, from there; "" for another."""
        found = Path(os.fsdecode(path))
        if found != self.out.parent and not found.is_relative_to(self.out):
            return ""
        return str(found.relative_to(self.out.parent))


def _bytes(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))
