"""The checkpoints of finished runs that may become GOOD or BAD."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.checkpoints.checkpoint import read_json, reading
from cdgen.checkpoints.safetensors_header import read_header
from cdgen.errors import ModelError, UsageError
from cdgen.storage import sha256_of
from cdgen.train.checkpoints import MARKER, is_complete
from cdgen.train.metrics import METRICS, checkpoint_losses

_CHECKPOINT = re.compile(r"(?:checkpoint-|chck_)(\d+)(M?)")


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that `cdgen generate` would take."""

    run: Path
    folder: Path
    step: int
    parameters: int
    loss: float  # validation, nats/token
    tokenizer_sha256: str


def find_candidates(runs: Sequence[Path]) -> tuple[list[Candidate], list[str]]:
    """Return the checkpoints with the first run's tokenizer, ordered by run and step, and notes on
    those that were left out. Raises UsageError for a folder that is no run, ModelError for a run
    without a usable checkpoint."""
    if len({run.resolve() for run in runs}) < len(runs):
        raise UsageError("--select-pair: a run is given more than once; name each once")
    found: list[Candidate] = []
    notes: list[str] = []
    for run in runs:
        usable, unusable = _candidates_of(run)
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


def _candidates_of(run: Path) -> tuple[list[Candidate], list[str]]:
    metrics = run / METRICS
    if not metrics.is_file():
        raise UsageError(f"{run}: expected a run folder of cdgen train, found no {METRICS}")
    losses = checkpoint_losses(metrics)
    by_step: dict[int, Candidate] = {}
    notes = []
    for folder in _checkpoint_folders(run):
        try:
            with reading(folder):
                candidate = _read_candidate(run, folder, losses)
            by_step.setdefault(candidate.step, candidate)
        except ModelError as error:
            notes.append(str(error))
    found = [by_step[step] for step in sorted(by_step)]
    return found, [*notes, *_unfinished(run, max(by_step, default=0))]


def _checkpoint_folders(run: Path) -> list[Path]:
    """Return the checkpoint folders, checkpoint-N before chck_NM: both at the same step hold the
    same model, and the first one counts."""
    below = [path for parent in (run / "checkpoints", run) for path in parent.glob("ch*")]
    numbered = [(match, path) for path in below if (match := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, key=lambda m: (bool(m[0][2]), int(m[0][1])))]


def _read_candidate(run: Path, folder: Path, losses: Mapping[int, float]) -> Candidate:
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
        raise ModelError(f"{folder}: no finite validation loss in {METRICS}: passed over")
    if not tokenizer.is_file():
        raise ModelError(f"{folder}: no tokenizer.json; save the run's tokenizer there")
    tensors = read_header(folder / "model.safetensors")
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    return Candidate(run, folder, step, parameters, loss, sha256_of(tokenizer))


def _unfinished(run: Path, last: int) -> list[str]:
    """Return a note if the run has more steps than its last checkpoint, `last`, or none if not."""
    try:
        steps = int(_read_json(run / "mixture.json").get("steps", last))
    except (ModelError, TypeError, ValueError, OverflowError):
        return [f"{run}: mixture.json is damaged, so whether it is finished is not known"]
    return [f"{run}: not finished, at step {last} of {steps}"] if last < steps else []


def _held_out(run: Path) -> tuple[object, object]:
    """Return the sources and the seed, which decide the text that `run` holds out."""
    recipe = _read_json(run / "recipe.json")
    seed = recipe.get("split_seed")
    return recipe.get("sources"), recipe.get("seed") if seed is None else seed


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run; another trainer may have left none."""
    with reading(path):
        return read_json(path) if path.exists() else {}
