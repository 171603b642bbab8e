"""What a disk may hold after a power failure, from the changes that a command made.

`Disk` plays them back and forgets what was not synced, by the rules on which a program may rely
(Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014): fsync of a file saves its
bytes and not its name; fsync of a folder saves the names in it; a rename happens whole or not at
all; anything else may be lost, in any combination, and a write may be torn.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from strace_record import Event


@dataclass(eq=False)
class _File:
    now: bytes = b""
    saved: bytes = b""
    waiting: list[Event] = field(default_factory=list)  # writes and truncates

    def content(self, kept: int, torn: float) -> bytes:
        """Return what is left if the first `kept` waiting changes reached the disk, and this part
        of the one after them."""
        content = self.saved
        for change in self.waiting[:kept]:
            content = _changed(content, change)
        if kept < len(self.waiting) and (change := self.waiting[kept]).kind == "write":
            part = change.data[: int(torn * len(change.data))]
            content = _changed(content, Event("write", change.path, part, change.offset))
        return content


@dataclass(frozen=True)
class Link:
    """A symbolic link. Its target comes and goes with its name."""

    target: bytes


@dataclass(eq=False)
class _Folder:
    now: dict[str, _Node] = field(default_factory=dict)
    saved: dict[str, _Node] = field(default_factory=dict)


_Node: TypeAlias = "_Folder | _File | Link"


@dataclass(eq=False)
class _Renaming:
    """Names that change together, or not at all: a file created, removed or renamed."""

    changes: list[tuple[_Folder, str, _Node | None]]


def _changed(content: bytes, change: Event) -> bytes:
    if change.kind == "truncate":
        return content[: change.offset].ljust(change.offset, b"\0")
    start = len(content) if change.offset < 0 else change.offset
    return content[:start].ljust(start, b"\0") + change.data + content[start + len(change.data) :]


State = dict[str, bytes | Link | None]  # the content of files by path; None for a folder


class Disk:
    """A disk during the events of a record: as the command sees it, and what of it is saved."""

    def __init__(self) -> None:
        self.root = _Folder()
        self.waiting: list[_Renaming] = []

    def apply(self, event: Event) -> None:
        if event.kind == "sync":
            self._sync(self._node(event.path))
        elif event.kind in ("write", "truncate"):
            file = self._node(event.path)
            assert isinstance(file, _File)
            file.now = _changed(file.now, event)
            file.waiting.append(event)
        elif event.kind == "rename":
            (source, old), (target, new) = self._place(event.path), self._place(event.target)
            self._name([(target, new, source.now[old]), (source, old, None)])
        else:
            folder, name = self._place(event.path)
            if event.kind in ("unlink", "rmdir"):
                self._name([(folder, name, None)])
            elif name not in folder.now:
                self._name([(folder, name, _new(event))])

    def _name(self, changes: list[tuple[_Folder, str, _Node | None]]) -> None:
        for folder, name, node in changes:
            _assign(folder.now, name, node)
        self.waiting.append(_Renaming(changes))

    def _sync(self, node: _Node) -> None:
        if isinstance(node, _File):
            node.saved, node.waiting = node.now, []
            return
        assert isinstance(node, _Folder)  # nothing opens a link itself
        for renaming in self.waiting:
            if any(folder is node for folder, _, _ in renaming.changes):
                for folder, name, target in renaming.changes:
                    _assign(folder.saved, name, target)
        self.waiting = [r for r in self.waiting if all(f is not node for f, _, _ in r.changes)]

    def _place(self, path: str) -> tuple[_Folder, str]:
        parent, _, name = path.rpartition("/")
        folder = self._node(parent or ".")
        assert isinstance(folder, _Folder)
        return folder, name

    def _node(self, path: str) -> _Node:
        node: _Node = self.root
        for name in [] if path == "." else path.split("/"):
            assert isinstance(node, _Folder)
            node = node.now[name]
        return node

    # ---- what a power failure leaves -----------------------------------------------------------

    def now(self) -> State:
        """Return what the command itself would read: what a kill leaves."""
        return _tree(self.root, lambda folder: folder.now, lambda file: file.now)

    def left(self, keeps_names: bool, keeps_data: bool) -> State:
        """Return the disk if of all that was not synced only names, only contents or nothing
        survived."""
        return self._left(
            self.waiting if keeps_names else [],
            lambda file: file.now if keeps_data else file.saved,
        )

    def left_by_chance(self, noise: random.Random) -> State:
        """Return the disk with any of the names and a part of the contents that were not synced."""
        kept = [renaming for renaming in self.waiting if noise.random() < 0.5]
        return self._left(
            kept, lambda f: f.content(noise.randint(0, len(f.waiting)), noise.random())
        )

    def _left(self, kept: list[_Renaming], content: Callable[[_File], bytes]) -> State:
        names: dict[int, dict[str, _Node]] = {}

        def of(folder: _Folder) -> dict[str, _Node]:
            return names.setdefault(id(folder), dict(folder.saved))

        for renaming in kept:
            for folder, name, node in renaming.changes:
                _assign(of(folder), name, node)
        return _tree(self.root, of, content)


def _new(event: Event) -> _Node:
    if event.kind == "symlink":
        return Link(event.data)
    return _Folder() if event.kind == "mkdir" else _File()


def _assign(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _tree(
    folder: _Folder,
    names: Callable[[_Folder], dict[str, _Node]],
    content: Callable[[_File], bytes],
    prefix: str = "",
) -> State:
    state: State = {}
    for name, node in sorted(names(folder).items()):
        if isinstance(node, _File):
            state[prefix + name] = content(node)
        elif isinstance(node, Link):
            state[prefix + name] = node
        else:
            state[prefix + name] = None
            state |= _tree(node, names, content, f"{prefix}{name}/")
    return state


def read_state(folder: Path) -> State:
    """Return the files and folders below `folder`, with its own name before their paths."""
    paths = sorted([folder, *folder.rglob("*")])
    return {str(path.relative_to(folder.parent)): _content(path) for path in paths}


def _content(path: Path) -> bytes | Link | None:
    if path.is_symlink():
        return Link(os.fsencode(os.readlink(path)))
    return path.read_bytes() if path.is_file() else None


def write_state(state: State, top: str, out: Path) -> None:
    """Make `out` what `state` has below its folder `top`."""
    for path, content in state.items():
        if path == top or path.startswith(f"{top}/"):
            place = out.joinpath(*Path(path).parts[1:])
            if content is None:
                place.mkdir()
            elif isinstance(content, Link):
                place.symlink_to(os.fsdecode(content.target))
            else:
                place.write_bytes(content)


def write_times(events: Sequence[Event], top: str, out: Path) -> None:
    """Date the files of `out` in the order in which these events changed or renamed them last."""
    last = {event.target or event.path: number for number, event in enumerate(events)}
    began = time.time_ns() - 10**9 * (1 + len(events))
    for path in sorted(out.rglob("*")):
        moment = began + 10**9 * last.get(f"{top}/{path.relative_to(out)}", 0)
        os.utime(path, ns=(moment, moment), follow_symlinks=False)


# ---- every state -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerLoss:
    """One state in which a power failure may leave the disk."""

    after: int  # events
    lost: str  # what was lost of all that was not synced
    state: State


def power_losses(events: Sequence[Event], seed: int) -> Iterator[PowerLoss]:
    """Yield every different state that a power failure may leave after some of the events."""
    disk, noise, seen = Disk(), random.Random(seed), set()
    for after, event in enumerate(events, 1):
        disk.apply(event)
        for lost, state in (
            ("everything", disk.left(keeps_names=False, keeps_data=False)),
            ("contents", disk.left(keeps_names=True, keeps_data=False)),
            ("names", disk.left(keeps_names=False, keeps_data=True)),
            ("any part", disk.left_by_chance(noise)),
        ):
            key = hash(tuple(state.items()))
            if key not in seen or after == len(events):
                seen.add(key)
                yield PowerLoss(after, lost, state)


def without_sync(events: Sequence[Event], left_out: int) -> list[Event]:
    """Return the record of a program that lacks one fsync, the `left_out`-th event."""
    assert events[left_out].kind == "sync"
    return [*events[:left_out], *events[left_out + 1 :]]
