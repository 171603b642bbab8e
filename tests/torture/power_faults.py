"""Power loss at any moment of a command."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from commands import Change, fork_stages, unchanged
from material import EXPERIMENT, FORMATS, PAGE, RANGES, Expected
from power_loss import (
    Disk,
    PowerLoss,
    power_losses,
    read_state,
    without_sync,
    write_state,
    write_times,
)
from strace_record import STRACE, Event, record
from trials import SAME, Tally, Trials, Wrong, require_same

from cdgen.corpus.status import status
from cdgen.errors import CdgenError


def recorded(
    trials: Trials,
    command: Sequence[str],
    out: Path,
    before: Sequence[Event] = (),
    change: Change = unchanged,
) -> list[Event]:
    """Run a command and record what it does to the disk, after the events before it. Played back,
    that must give its files."""
    events = [*before, *record(command, trials.material.said, out, change)]
    disk = Disk()
    for event in events:
        disk.apply(event)
    now = {path: content for path, content in disk.now().items() if path.startswith(out.name)}
    if now != read_state(out):
        raise RuntimeError(f"the record of {shlex.join(command)} is not complete")
    return events


def power_loss_of_generate(trials: Trials) -> Iterator[Tally]:
    for format in FORMATS:
        tally = Tally(f"power loss during `cdgen generate` ({format})")
        if STRACE:
            out = trials.material.fresh()
            events = recorded(trials, trials.material.generate(out, format), out)
            lose_power(trials, tally, events, out.name, format)
        else:
            tally.left_out = "strace is not installed"
        yield tally


def lose_power(
    trials: Trials, tally: Tally, events: Sequence[Event], top: str, format: str
) -> None:
    """Restore every state that a power failure may leave, and go on from it."""
    for loss in trials.some(power_losses(events, trials.noise.randrange(2**32))):
        with tally.trial(_named(loss)):
            _survive(trials, loss, events, top, format)
            tally.outcomes[f"nothing committed was lost; {SAME}"] += 1


def _survive(
    trials: Trials, loss: PowerLoss, events: Sequence[Event], top: str, format: str
) -> None:
    out = trials.material.fresh()
    write_state(loss.state, top, out)
    require_kept(out, ranges_passed(events[: loss.after]), loss.after == len(events))
    trials.generate_again(out, format)


def missing_syncs(trials: Trials) -> Tally:
    """Leave one fsync out of what was recorded; the trials of power loss must notice."""
    tally = Tally("`cdgen generate` without one of its fsyncs: power loss must show it")
    if not STRACE:
        tally.left_out = "strace is not installed"
        return tally
    for format in FORMATS:
        out = trials.material.fresh()
        events = recorded(trials, trials.material.generate(out, format), out)
        names = [event.target or event.path for event in events]
        of_rows = names.index(f"{out.name}/.cdgen/ranges/.range-0000000.{format}.tmp")
        of_manifest = names.index(f"{out.name}/manifest.json")
        for what, begins in (("a range's file", of_rows), ("the manifest's name", of_manifest)):
            left_out = next(n for n in range(begins, len(events)) if events[n].kind == "sync")
            if _notices(trials, events, left_out, out.name, format):
                tally.outcomes[f"noticed that {what} is not synced"] += 1
            else:
                tally.wrong.append(f"{format}: nothing notices that {what} is not synced")
    return tally


def _notices(trials: Trials, events: Sequence[Event], left_out: int, top: str, format: str) -> bool:
    """Return whether a power failure shows that one event, an fsync, is missing."""
    changed = without_sync(events, left_out)
    for loss in power_losses(changed, trials.noise.randrange(2**32)):
        if left_out <= loss.after <= left_out + 20 or loss.after == len(changed):
            try:
                _survive(trials, loss, changed, top, format)
            except (Wrong, CdgenError):
                return True
    return False


def power_loss_of_train(trials: Trials) -> Iterator[Tally]:
    """Go on from every state that a power failure may leave while a pair is trained; of a
    student, look at those after the end only."""
    material = trials.material
    for tally, exports, expected in (
        (Tally("power loss during `cdgen train`"), "pair", material.trained),
        (Tally("power loss after `cdgen train` of a student"), "model", material.student),
    ):
        if STRACE:
            out = material.fresh()
            command = partial(material.train, exports=exports)
            events = recorded(trials, command(out), out)
            losses = list(power_losses(events, trials.noise.randrange(2**32)))
            ended = [loss for loss in losses if loss.after == len(events)]
            during = trials.some(losses[: -len(ended)]) if exports == "pair" else []
            for loss in [*during, *ended]:
                with tally.trial(_named(loss)):
                    _go_on_training(trials, loss, events, out.name, command, expected)
                    tally.outcomes[SAME] += 1
        else:
            tally.left_out = "strace is not installed"
        yield tally


def _go_on_training(
    trials: Trials,
    loss: PowerLoss,
    events: Sequence[Event],
    top: str,
    command: Callable[[Path], list[str]],
    expected: Expected,
) -> None:
    out = trials.material.fresh()
    write_state(loss.state, top, out)
    for path in checkpoints_passed(events[: loss.after]):
        if path not in loss.state:
            raise Wrong(f"{path} is lost")
    if loss.after == len(events):
        require_same(out, expected)
    trials.repeat(command(out), out, expected)


def power_loss_of_eval(trials: Trials) -> Tally:
    """Score a checkpoint, then that one and another, which moves the results of the first; go on
    from every state that a power failure may leave of both."""
    tally, material = (
        Tally("power loss during `cdgen eval`, twice into one folder"),
        trials.material,
    )
    if not STRACE:
        tally.left_out = "strace is not installed"
        return tally
    out, pair = material.fresh(), material.pair
    both = material.evaluate(out, pair.good, pair.bad)
    alone = recorded(trials, material.evaluate(out, pair.good), out)
    events = recorded(trials, both, out, alone)
    expected = Expected.of(out)
    for loss in trials.some(power_losses(events, trials.noise.randrange(2**32))):
        with tally.trial(_named(loss)):
            _restore(loss, events, out)
            trials.repeat(both, out, expected)
            tally.outcomes[SAME] += 1
    return tally


def power_loss_of_run(trials: Trials, most: int) -> Tally:
    """Go on with an experiment from up to `most` states, drawn by chance, that a power failure may
    leave: each takes seconds."""
    tally, material = Tally("power loss during `cdgen run`"), trials.material
    if not STRACE:
        tally.left_out = "strace is not installed"
        return tally
    out = material.fresh()
    command = material.experiment(out)
    events = recorded(trials, command, out, change=fork_stages)
    expected = Expected.of(out, EXPERIMENT, PAGE)
    losses = list(power_losses(events, trials.noise.randrange(2**32)))
    tally.fault += f", drawn from {len(losses):,} states of the disk"
    drawn = sorted(trials.noise.sample(range(len(losses)), min(most, len(losses))))
    for loss in trials.some(losses[number] for number in drawn):
        with tally.trial(_named(loss)):
            _restore(loss, events, out)
            trials.repeat(command, out, expected, fork_stages)
            tally.outcomes[SAME] += 1
    return tally


def _named(loss: PowerLoss) -> str:
    return f"after event {loss.after}, {loss.lost} of what was not synced lost"


def _restore(loss: PowerLoss, events: Sequence[Event], out: Path) -> None:
    """Make `out` what a power failure left of it. Its files may name its path, so it stays."""
    shutil.rmtree(out, ignore_errors=True)
    write_state(loss.state, out.name, out)
    write_times(events[: loss.after], out.name, out)


def ranges_passed(events: Sequence[Event]) -> int:
    """Return how many ranges the command had committed for certain: it had begun what follows."""
    passed = 0
    for event in events:
        name = event.path.rpartition("/")[2]
        if event.kind == "create" and name.startswith(".range-"):
            passed = max(passed, int(name.split("-")[1].partition(".")[0]))
        if event.kind == "mkdir" and name == "data":
            passed = RANGES
    return passed


def checkpoints_passed(events: Sequence[Event]) -> list[str]:
    """Return the markers of checkpoints that the run had finished for certain: it had begun the
    next."""
    names = [event.target for event in events if "/checkpoint-" in event.target]
    markers = [name for name in names if name.endswith("/complete.json")]
    begun = [e.path for e in events if e.kind == "mkdir" and "/checkpoint-" in e.path]
    return [marker for marker in markers if begun and marker.rpartition("/")[0] != begun[-1]]


def require_kept(out: Path, ranges: int, finished: bool) -> None:
    """Raise Wrong unless these ranges, or the finished corpus, survived."""
    if not ranges and not finished:
        return
    found = status(out)
    if found.ranges_done < ranges or (finished and not found.finalized):
        raise Wrong(f"{found.ranges_done} ranges are left of {ranges} that were committed")
