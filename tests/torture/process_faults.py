"""Faults of processes, machines and clocks."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from commands import KILLED, Change, fork_stages, run, start, unchanged
from material import FORMATS, RANGES, Expected
from trials import COMPLETE, REFUSED, SAME, Tally, Trials, Wrong

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.shard import Shard
from cdgen.corpus.status import Heartbeat
from cdgen.storage import make_folder, temporary_of, write_record


def kill(trials: Trials, name: str, rounds: int) -> Tally:
    """Kill a command, one to three times in a row, at random times; then let it end."""
    with_stage = " with the stage at work" if name == "run" else ""
    tally, trial = Tally(f"kill -9 of `cdgen {name}`{with_stage}, at a random time"), 0
    change = fork_stages if name == "run" else unchanged
    seconds = trials.duration(_command(trials, name, trials.material.fresh(), 0)[0], change)
    while tally.tried < rounds:
        trial += 1
        out = trials.material.fresh()
        command, expected = _command(trials, name, out, trial)
        kills = 0
        with tally.trial(f"kills {tally.tried + 1} and after"):
            for _ in range(min(trials.noise.randint(1, 3), rounds - tally.tried)):
                process = start(command, trials.material.said, change)
                time.sleep(trials.noise.uniform(0, seconds))
                process.kill()
                kills += process.wait() == KILLED
            trials.repeat(command, out, expected, change)
            tally.outcomes[SAME] += kills
    return tally


def _command(trials: Trials, name: str, out: Path, trial: int) -> tuple[list[str], Expected]:
    """Return the command, and the files that it must leave. The format of a corpus alternates."""
    material, format = trials.material, FORMATS[trial % 2]
    if name == "generate":
        return material.generate(out, format), material.corpora[format]
    if name == "finalize":
        shutil.copytree(material.unfinished[format], out)
        return material.finalize(out), material.corpora[format]
    if name == "train":
        return material.train(out), material.trained
    return material.experiment(out), material.experimented


def two_at_once(trials: Trials, rounds: int) -> Iterator[Tally]:
    """Start two commands on one corpus at nearly the same time."""
    material = trials.material

    def same(out: Path, format: str) -> list[list[str]]:
        return [material.generate(out, format)] * 2

    def overlapping(out: Path, format: str) -> list[list[str]]:
        return [material.generate(out, format), material.generate(out, format, "--shard", "1/2")]

    def finalizing(out: Path, format: str) -> list[list[str]]:
        shutil.copytree(material.unfinished[format], out)
        return [material.finalize(out)] * 2

    yield _two(trials, "two workers begin the same ranges", rounds, same)
    yield _two(trials, "two workers whose --shard overlap", rounds, overlapping)
    unlocked = "two workers on a file system whose locks exclude nobody"
    yield _two(trials, unlocked, rounds, same, _lock_nothing)
    yield _two(trials, "two `cdgen finalize`", rounds, finalizing)


def _two(
    trials: Trials,
    fault: str,
    rounds: int,
    commands_of: Callable[[Path, str], list[list[str]]],
    change: Change = unchanged,
) -> Tally:
    tally, said = Tally(fault), [trials.material.folder / f"said-{n}.txt" for n in range(2)]
    for trial in range(rounds):
        out, format = trials.material.fresh(), FORMATS[trial % 2]
        with tally.trial(f"{format}, round {trial}"):
            processes = []
            for command, file in zip(commands_of(out, format), said, strict=True):
                processes.append(start(command, file, change))
                time.sleep(trials.noise.choice([0, 0, 0.01, 0.05]))
            codes = sorted(process.wait() for process in processes)
            if not {COMPLETE, REFUSED}.issuperset(codes):
                raise Wrong(f"ended with {codes}: {[s.read_text()[-300:] for s in said]}")
            trials.generate_again(out, format)
            refused = codes.count(REFUSED)
            tally.outcomes[f"{('neither', 'one', 'both')[refused]} refused; {SAME}"] += 1
    return tally


def stale_claims(trials: Trials, rounds: int) -> Tally:
    """Leave what a host leaves that dies: locks, a heartbeat, half-written files."""
    tally = Tally("locks, heartbeats and half-written files of a host that died")
    for trial in range(rounds):
        out, format = trials.material.fresh(), FORMATS[trial % 2]
        with tally.trial(f"{format}, round {trial}"):
            shards = ("--shard", trials.noise.choice(["0/2", "1/2", "1/3", "2/3"]))
            trials.material.make(trials.material.generate(out, format, *shards))
            leave_claims(CorpusFolder(out), trials.noise)
            if run(["status", str(out)], trials.material.said) != COMPLETE:
                raise Wrong(f"status fails: {trials.material.said.read_text()[-400:]}")
            trials.generate_again(out, format)
            tally.outcomes[SAME] += 1
    return tally


def jumping_clock(trials: Trials, rounds: int) -> Tally:
    tally = Tally("a clock that jumps by up to ten years at every look")
    for trial in range(rounds):
        out, format = trials.material.fresh(), FORMATS[trial % 2]
        command = trials.material.generate(out, format)
        seed = trials.noise.random()
        with tally.trial(f"{format}, round {trial}"):
            process = start(command, trials.material.said, lambda s=seed: _jump(s))
            time.sleep(trials.noise.uniform(0, 0.2))
            process.kill()
            process.wait()
            trials.repeat(command, out, trials.material.corpora[format], lambda s=seed: _jump(s))
            tally.outcomes[SAME] += 1
    return tally


def moved_times(trials: Trials, rounds: int) -> Tally:
    """Kill an experiment, then change the time of every file, as a wrong clock would have."""
    tally = Tally("a clock that was wrong by up to a year: times of files in `cdgen run`")
    seconds = trials.duration(trials.material.experiment(trials.material.fresh()), fork_stages)
    for trial in range(rounds):
        out = trials.material.fresh()
        command = trials.material.experiment(out)
        with tally.trial(f"round {trial}"):
            process = start(command, trials.material.said, fork_stages)
            time.sleep(trials.noise.uniform(0.7, 1.0) * seconds)
            process.kill()
            process.wait()
            for path in sorted(out.rglob("*")):
                moment = time.time() + trials.noise.uniform(-3e7, 3e7)
                os.utime(path, (moment, moment), follow_symlinks=False)
            trials.repeat(command, out, trials.material.experimented, fork_stages)
            tally.outcomes[SAME] += 1
    return tally


def leave_heartbeat(folder: CorpusFolder, shard: Shard, moment: float) -> None:
    """Write the heartbeat of a worker on another host."""
    there = "a-host-that-died", os.getpid(), "its pids"
    beat = Heartbeat(str(shard), moment, *there, 1, 100, 10.0)
    make_folder(folder.heartbeats)
    write_record(folder.heartbeat_path(shard), asdict(beat))


def leave_claims(folder: CorpusFolder, noise: random.Random) -> None:
    """Leave locks, heartbeats of the past and of the future, and torn temporary files."""
    for name in ("set-up", "finalize", "shard-0-of-1", "shard-1-of-3"):
        (folder.locks / f"{name}.lock").write_text("a-host-that-died:4711\n")
    for shard in (Shard(0, 1), Shard(1, 3)):
        leave_heartbeat(folder, shard, time.time() + noise.uniform(-1e8, 1e8))
    torn = noise.randbytes(noise.randrange(500))
    places = [
        folder.plan_file,
        folder.manifest_file,
        folder.card,
        folder.heartbeat_path(Shard(0, 1)),
    ]
    places += [folder.range_path(index) for index in range(RANGES)]
    places += [folder.range_entry_path(index) for index in range(RANGES)]
    for path in places:
        temporary_of(path).write_bytes(torn)


def _lock_nothing() -> None:
    fcntl.flock = lambda descriptor, operation: None  # type: ignore[assignment]


def _jump(seed: float) -> None:
    now, noise = time.time, random.Random(seed)
    time.time = lambda: now() + noise.uniform(-3e8, 3e8)
