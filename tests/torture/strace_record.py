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

from commands import start

STRACE = shutil.which("strace")
_TRACED = (
    "open,openat,creat,close,dup,dup2,dup3,write,pwrite64,writev,pwritev,lseek,truncate,ftruncate,"
    "fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,link,linkat,"
    "symlink,symlinkat,copy_file_range,sendfile,fallocate"
)


@dataclass(frozen=True)
class Event:
    """A change of the disk, or a sync. Paths begin with the name of the recorded folder, and the
    folder that it is in is `.`."""

    kind: str  # create, write, truncate, sync, mkdir, rename, unlink, rmdir
    path: str
    data: bytes = b""  # of a write
    offset: int = 0  # of a write; the size of a truncate
    target: str = ""  # of a rename


def record(arguments: Sequence[str], said: Path, out: Path) -> list[Event]:
    """Run a command under strace; return what it did to the disk below the parent of `out`.

    Raises RuntimeError if the command fails.
    """
    log = said.with_suffix(".strace")
    log.unlink(missing_ok=True)
    read, write = os.pipe()

    def wait_for(descriptor: int) -> None:
        os.read(descriptor, 1)

    command = start(arguments, said, lambda: wait_for(read))
    tracing = subprocess.Popen(
        [
            *(STRACE or "strace", "-f", "-y", "-xx", "-s", "100000000"),
            *("-e", f"trace={_TRACED}", "-o", str(log), "-p", str(command.pid)),
        ],
        stderr=subprocess.DEVNULL,
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
    return list(_Parser(out).events(log))


class _Parser:
    """Reads strace's log. All threads of the command share one table of descriptors."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.offsets: dict[str, int] = {}  # by descriptor
        self.appending: set[str] = set()

    def events(self, log: Path) -> Iterator[Event]:
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
                yield from self._event(*found.groups())

    def _event(self, call: str, arguments: str, result: str, opened: str | None) -> Iterator[Event]:
        strings = [_bytes(text) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        number, path = "", ""
        if held := re.match(r"(\d+)<((?:\\x[0-9a-f]{2})*)>", arguments):
            number, path = held[1], self._inside(_bytes(held[2]))
        if call in ("open", "openat", "creat"):
            yield from self._open(arguments, result, self._inside(_bytes(opened or "")))
        elif call == "close":
            self.offsets.pop(number, None)
        elif call == "lseek":
            self.offsets[number] = int(result)
        elif call in ("write", "writev", "pwrite64") and path:
            yield self._write(call, arguments, number, path, b"".join(strings)[: int(result)])
        elif call == "ftruncate" and path:
            yield Event("truncate", path, offset=int(arguments.rpartition(", ")[2]))
        elif call in ("fsync", "fdatasync") and path:
            yield Event("sync", path)
        elif call not in ("fsync", "fdatasync", "write", "writev", "pwrite64", "ftruncate"):
            yield from self._names(call, arguments, [self._inside(name) for name in strings])

    def _open(self, arguments: str, result: str, path: str) -> Iterator[Event]:
        self.offsets[result] = 0
        self.appending.discard(result)
        if "O_APPEND" in arguments:
            self.appending.add(result)
        if path and "O_CREAT" in arguments:
            yield Event("create", path)
        if path and "O_TRUNC" in arguments:
            yield Event("truncate", path)

    def _write(self, call: str, arguments: str, number: str, path: str, data: bytes) -> Event:
        if call == "pwrite64":
            return Event("write", path, data, int(arguments.rpartition(", ")[2]))
        if number in self.appending:
            return Event("write", path, data, -1)
        offset = self.offsets[number]
        self.offsets[number] = offset + len(data)
        return Event("write", path, data, offset)

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
