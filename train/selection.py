"""`cdgen train --select-pair`: GOOD and its BADs among the checkpoints of finished runs.

GOOD has the least validation loss of all checkpoints with the first run's tokenizer. BAD may be

    early    an earlier step of GOOD's run
    small    a checkpoint of a run with fewer parameters
    dropout  GOOD itself with attention dropout; its loss is not known

The default is the last early one that is at least `gap` nats per token above GOOD.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.checkpoint import read_json, reading
from cdgen.checkpoints.pair import open_pair
from cdgen.checkpoints.pair_file import Kind, OtherBad, read_pair_file
from cdgen.checkpoints.safetensors_header import read_header
from cdgen.errors import ModelError, UsageError
from cdgen.models.registry import lean_config
from cdgen.storage import make_folder, sha256_of, write_atomic
from cdgen.train.checkpoints import MARKER, is_complete
from cdgen.train.pair import checkpoint_losses, last_behind

DROPOUT = "dropout:0.5"
_CHECKPOINT = re.compile(r"(?:checkpoint-|chck_)(\d+)(M?)")
_PAIR_FILE = """\
# A pair for `cdgen generate --pair FILE`, chosen by `cdgen train --select-pair`. Paths are relative
# to this file; losses are validation losses in nats per token.

# GOOD, the least loss: step {good.step}, {good.parameters:,} parameters, loss {good.loss:.4f}
{good_line}
# BAD, the last step at least {gap:g} above it: step {bad.step}, loss {bad.loss:.4f}
{bad_line}
# Others: put the `bad` of one in place of the line above. `cdgen generate` reads none of this.
# early: an earlier step of GOOD's run; small: a run with fewer parameters; dropout: GOOD itself
# with attention dropout, of which no loss is known.
{others}"""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that `cdgen generate` would take."""

    run: Path
    folder: Path
    step: int
    parameters: int
    loss: float  # validation, nats/token
    tokenizer_sha256: str


@dataclass(frozen=True)
class Selection:
    good: Candidate
    bad: Candidate
    early: tuple[Candidate, ...]  # without `bad`
    small: tuple[Candidate, ...]
    dropout: bool  # GOOD can serve as its own BAD
    gap: float
    notes: tuple[str, ...]  # checkpoints left out, and why

    def table(self) -> str:
        rows = [("GOOD", self.good), ("BAD", self.bad)]
        rows += [("early", c) for c in self.early] + [("small", c) for c in self.small]
        lines = [f"{'':8}{'step':>9}{'parameters':>15}{'loss':>9}  checkpoint"]
        lines += [
            f"{kind:8}{c.step:>9,}{c.parameters:>15,}{c.loss:>9.4f}  {c.folder}" for kind, c in rows
        ]
        if self.dropout:
            lines.append(
                f"{'dropout':8}{self.good.step:>9,}{self.good.parameters:>15,}{'-':>9}  {DROPOUT}"
            )
        return "\n".join(lines)


def select_pair(runs: Sequence[Path], gap: float) -> Selection:
    """Choose GOOD and BAD. Raises UsageError if a folder is no run, ModelError if no checkpoint
    fits its role."""
    if not 0 < gap < math.inf:
        raise UsageError(f"--gap: expected nats per token above 0, such as 0.5, got {gap}")
    found, notes = _candidates(runs)
    good = min(found, key=lambda c: c.loss)  # the earliest of equal ones
    early = [c for c in found if c.run == good.run and c.step < good.step]
    step = last_behind({c.step: c.loss for c in [*early, good]}, good.step, gap)
    if step is None:
        most = max((c.loss - good.loss for c in early), default=None)
        raise ModelError(
            f"no checkpoint before GOOD ({good.folder}, loss {good.loss:.4f}) is {gap:g} nats/token"
            f" above it{'' if most is None else f', at most {most:.4f}'}: lower --gap, or train"
            " again with a smaller checkpoint_every"
        )
    bad = next(c for c in early if c.step == step)
    open_pair(good.folder, parse_bad(str(bad.folder)))  # as `cdgen generate` will
    small = [c for c in found if c.parameters < good.parameters]
    return Selection(
        good,
        bad,
        tuple(c for c in early if c is not bad),
        tuple(sorted(small, key=lambda c: -c.parameters)),
        lean_config(read_json(good.folder / "config.json"), 1) is not None,
        gap,
        tuple(notes),
    )


def write_pair_file(selection: Selection, out: Path) -> None:
    """Write the pair file. Raises UsageError if `out` is something other than a pair file."""
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder: name the file to write, such as pair.yaml")
    if out.exists():
        read_pair_file(out)  # raises, so that a recipe given by mistake is not overwritten
    make_folder(out.parent)
    content = _PAIR_FILE.format(
        good=selection.good,
        bad=selection.bad,
        gap=selection.gap,
        good_line=_yaml({"good": _relative(selection.good.folder, out)}),
        bad_line=_yaml({"bad": _relative(selection.bad.folder, out)}),
        others=_yaml({"alternatives": [bad.model_dump() for bad in _others(selection, out)]}),
    )
    write_atomic(out, content.encode())


def _others(selection: Selection, out: Path) -> list[OtherBad]:
    good = selection.good
    rows: list[tuple[Kind, str, Candidate, float | None]] = [
        *(("early", _relative(c.folder, out), c, c.loss) for c in selection.early),
        *(("small", _relative(c.folder, out), c, c.loss) for c in selection.small),
        *((("dropout", DROPOUT, good, None),) if selection.dropout else ()),
    ]
    return [
        OtherBad(bad=bad, kind=kind, step=c.step, parameters=c.parameters, loss=loss)
        for kind, bad, c, loss in rows
    ]


def _relative(folder: Path, file: Path) -> str:
    return os.path.relpath(folder.resolve(), file.resolve().parent)


def _yaml(values: dict[str, object]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)


# ---- the checkpoints of a run ------------------------------------------------------------------


def _candidates(runs: Sequence[Path]) -> tuple[list[Candidate], list[str]]:
    """Return the checkpoints with the first run's tokenizer, by run and step, and why others were
    left out."""
    if len({run.resolve() for run in runs}) < len(runs):
        raise UsageError("--select-pair: a run is given more than once; name each once")
    found: list[Candidate] = []
    notes: list[str] = []
    for run in runs:
        usable, unusable = _of_run(run)
        notes += unusable
        if not usable:
            raise ModelError(f"{run} has no usable checkpoint: {'; '.join(unusable) or 'none'}")
        others = [c for c in usable if c.tokenizer_sha256 != (found or usable)[0].tokenizer_sha256]
        if others:
            notes.append(f"{run}: another tokenizer than {runs[0]}, so no pair with it")
            continue
        found += usable
        if _held_out(run) != _held_out(runs[0]):
            notes.append(f"{run}: other text held out than by {runs[0]}: losses compare roughly")
    return found, notes


def _of_run(run: Path) -> tuple[list[Candidate], list[str]]:
    metrics = run / "metrics.jsonl"
    if not metrics.is_file():
        raise UsageError(f"{run}: expected a run folder of cdgen train, found no metrics.jsonl")
    losses = checkpoint_losses(metrics)
    by_step: dict[int, Candidate] = {}
    notes = []
    for folder in _checkpoint_folders(run):
        try:
            with reading(folder):
                candidate = _candidate(run, folder, losses)
            by_step.setdefault(candidate.step, candidate)
        except ModelError as error:
            notes.append(str(error))
    found = [by_step[step] for step in sorted(by_step)]
    return found, [*notes, *_unfinished(run, max(by_step, default=0))]


def _checkpoint_folders(run: Path) -> list[Path]:
    """Return the folders, those of steps first: a milestone of words at the same step is the same
    model."""
    below = [path for parent in (run / "checkpoints", run) for path in parent.glob("ch*")]
    numbered = [(match, path) for path in below if (match := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, key=lambda m: (bool(m[0][2]), int(m[0][1])))]


def _candidate(run: Path, folder: Path, losses: Mapping[int, float]) -> Candidate:
    if not is_complete(folder):
        raise ModelError(f"{folder}: no {MARKER}, so it was cut short: passed over")
    marker, tokenizer = read_json(folder / MARKER), folder / "tokenizer.json"
    try:
        step = int(marker["step"])
        # A word milestone has a loss of its own: the Trainer may have saved nothing at its step.
        loss = float(marker.get("validation", {}).get("all", losses.get(step, math.nan)))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ModelError(f"{folder / MARKER} is damaged ({error!r}): passed over") from error
    if not math.isfinite(loss):
        raise ModelError(f"{folder}: no finite validation loss in metrics.jsonl: passed over")
    if not tokenizer.is_file():
        raise ModelError(f"{folder}: no tokenizer.json; save the run's tokenizer there")
    tensors = read_header(folder / "model.safetensors")
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return Candidate(run, folder, step, parameters, loss, sha256_of(tokenizer))


def _unfinished(run: Path, last: int) -> list[str]:
    try:
        steps = int(_record(run / "mixture.json").get("steps", last))
    except (ModelError, TypeError, ValueError, OverflowError):
        return [f"{run}: mixture.json is damaged, so whether it is finished is not known"]
    return [f"{run}: not finished, at step {last} of {steps}"] if last < steps else []


def _held_out(run: Path) -> tuple[object, object]:
    """Return what decides the held-out text."""
    recipe = _record(run / "recipe.json")
    seed = recipe.get("split_seed")
    return recipe.get("sources"), recipe.get("seed") if seed is None else seed


def _record(path: Path) -> dict[str, Any]:
    """Return the record of a run; empty for a run of another trainer."""
    with reading(path):
        return read_json(path) if path.exists() else {}
