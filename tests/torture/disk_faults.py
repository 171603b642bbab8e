"""Faults of the disk while a command writes, and bytes that change afterwards."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import system_calls
from commands import KILLED, in_a_fork, run
from material import FORMATS
from process_faults import leave_heartbeat
from system_calls import ERRORS, From, Nth
from trials import COMPLETE, REFUSED, SAME, Tally, Trials, Wrong

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.shard import Shard
from cdgen.corpus.verify import verify

CallCase = tuple[str, int, str]  # kind, number among its kind, path


def list_calls(trials: Trials, format: str) -> list[CallCase]:
    """Return every call by which an undisturbed `cdgen generate` changes the disk."""
    out, listed = trials.material.fresh(), trials.material.said.with_suffix(".calls")
    listed.unlink(missing_ok=True)
    around = system_calls.list_calls(listed)
    command = trials.material.generate(out, format)
    trials.material.make(command, lambda: system_calls.watch(out, around))
    counts: Counter[str] = Counter()
    found = []
    for line in listed.read_text().splitlines():
        kind, _, path = line.partition(" ")
        counts[kind] += 1
        found.append((kind, counts[kind], path))
    return found


def crash_at_every_call(trials: Trials) -> Tally:
    """Let each call be the last thing that a process does, or the first that it does not do."""
    tally = Tally("death before and after every call that changes the disk")
    ways = {"before": system_calls.die_before, "after": system_calls.die_after}
    calls = [(format, *call) for format in FORMATS for call in list_calls(trials, format)]
    for (format, kind, nth, path), when in trials.some(itertools.product(calls, ways)):
        out, act = trials.material.fresh(), Nth(kind, nth, ways[when])
        command, said = trials.material.generate(out, format), trials.material.said
        with tally.trial(f"{format}, {when} {kind} {nth} ({path})"):
            code = run(command, said, partial(system_calls.watch, out, act))
            if code != KILLED:
                raise Wrong(f"ended with {code} instead of dying")
            trials.generate_again(out, format)
            tally.outcomes[SAME] += 1
    return tally


def every_failing_call(trials: Trials) -> Iterator[Tally]:
    """Let each call fail, with each error."""
    calls = {format: list_calls(trials, format) for format in FORMATS}
    for number, (name, code) in enumerate(ERRORS.items()):
        tally, format = Tally(f"every call in turn fails with {name}"), FORMATS[number % 2]
        for kind, nth, path in trials.some(calls[format]):
            fault = partial(system_calls.watch, around=Nth(kind, nth, system_calls.fail(code)))
            with tally.trial(f"{format}, {kind} {nth} ({path})"):
                _fail(trials, tally, format, code, fault)
        yield tally
    tally = Tally("every call from one on fails: the disk becomes read-only")
    for format in FORMATS:
        for nth in trials.some(range(1, 1 + len(calls[format]))):
            fault = partial(system_calls.watch, around=From(nth))
            with tally.trial(f"{format}, from call {nth} on"):
                _fail(trials, tally, format, errno.EROFS, fault)
    yield tally
    yield _short_writes(trials, calls)


def _short_writes(trials: Trials, calls: dict[str, list[CallCase]]) -> Tally:
    tally = Tally("every write in turn is cut short, with room for the rest or without")
    writes = [
        (format, nth, path, fills_up)
        for format in FORMATS
        for kind, nth, path in calls[format]
        for fills_up in (False, True)
        if kind == "write"
    ]
    for format, nth, path, fills_up in trials.some(writes):
        fault = partial(system_calls.write_short, nth=nth, fills_up=fills_up)
        with tally.trial(f"{format}, write {nth} ({path}), fills up: {fills_up}"):
            _fail(trials, tally, format, errno.ENOSPC, fault)
    return tally


def _fail(
    trials: Trials, tally: Tally, format: str, code: int, fault: Callable[[Path], None]
) -> None:
    """Run a command with a fault: it must succeed, or say which error stopped it and exit with 5;
    then run it without."""
    out = trials.material.fresh()
    command, said = trials.material.generate(out, format), trials.material.said
    ended = run(command, said, lambda: fault(out))
    text = said.read_text()
    if ended not in (COMPLETE, REFUSED) or "Traceback" in text:
        raise Wrong(f"ended with {ended}: {text[-400:]}")
    if ended == REFUSED and os.strerror(code) not in text:
        raise Wrong(f"does not name the error: {text[-400:]}")
    trials.generate_again(out, format)
    tally.outcomes["completed in spite of it" if ended == COMPLETE else f"exit code 5; {SAME}"] += 1


def full_disk(trials: Trials) -> Tally:
    """Fill a file system of 16 KiB and more, then make room."""
    tally = Tally("a file system that is full (tmpfs of 16 to 140 KiB)")
    place = trials.material.folder / "small"
    place.mkdir()
    for kib in trials.some(range(16, 144, 4)):
        format = FORMATS[kib // 4 % 2]
        if not _mount(place, "-o", f"size={kib}k"):
            tally.left_out = "this process may not mount a file system"
            return tally
        try:
            with tally.trial(f"{format}, {kib} KiB"):
                _fill(trials, tally, place, format)
        finally:
            subprocess.run(["umount", str(place)], check=True)
    return tally


def _fill(trials: Trials, tally: Tally, place: Path, format: str) -> None:
    out, said = place / "out", trials.material.said
    command = trials.material.generate(out, format)
    code = run(command, said)
    if code not in (COMPLETE, REFUSED) or "Traceback" in said.read_text():
        raise Wrong(f"ended with {code}: {said.read_text()[-400:]}")
    if not _mount(place, "-o", "remount,size=10m"):
        raise Wrong("cannot be made larger")
    trials.generate_again(out, format)
    tally.outcomes["it all fitted" if code == COMPLETE else f"exit code 5; {SAME}"] += 1


def _mount(place: Path, *options: str) -> bool:
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True).returncode == 0


def flipped_bytes(trials: Trials) -> Iterator[Tally]:
    """Change one byte of one file at a time; `cdgen verify` must name the file."""
    for finished in (False, True):
        kind = "finished" if finished else "unfinished"
        tally = Tally(f"one flipped byte in any file of {'a' if finished else 'an'} {kind} corpus")
        for format in FORMATS:
            out = trials.material.fresh()
            shutil.copytree(trials.material.unfinished[format], out)
            if finished:
                trials.material.make(trials.material.finalize(out))
            else:
                leave_heartbeat(CorpusFolder(out), Shard(0, 2), time.time())
            _flip(trials, tally, out)
        yield tally


def _flip(trials: Trials, tally: Tally, out: Path) -> None:
    listed = trials.material.said.with_suffix(".flips")
    seed, most = trials.noise.random(), trials.most
    in_a_fork(lambda: listed.write_text(json.dumps(list(_flips(out, seed, most)))))
    for name, position, problems in json.loads(listed.read_text()):
        file = Path(name).name
        if any(file in problem for problem in problems):
            tally.outcomes["`cdgen verify` names the file"] += 1
        else:
            tally.wrong.append(f"byte {position} of {name}: verify says {problems}")


def _flips(out: Path, seed: float, most: int | None) -> Iterator[tuple[str, int, list[str]]]:
    """Flip a bit of some bytes of every file, one at a time; yield what `verify` says."""
    noise = random.Random(seed)
    for path in sorted(out.rglob("*")):
        if path.is_file() and (data := path.read_bytes()):
            count = min(len(data), most or 100)
            for position in noise.sample(range(len(data)), count):
                changed = bytearray(data)
                changed[position] ^= 1 << noise.randrange(8)
                path.write_bytes(changed)
                yield str(path.relative_to(out)), position, verify(out)
            path.write_bytes(data)
