"""Processes by their numbers: whether one still runs, and where its number means anything."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def is_running(pid: int) -> bool:
    """Return whether a process of this machine has not ended yet."""
    try:
        os.kill(pid, 0)  # signal 0 is not sent: it only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Return True for a process that has ended, but whose parent has not asked for its exit code;
    the first process of a container may never ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:  # no Linux, or it ended just now
        return False


@cache
def pid_space() -> str:
    """Return what a pid is unique in: one start of a machine and, in it, one container.

    A host's name is not enough, because a container may bear that of its host. Empty where the
    system does not tell.
    """
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{start} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
