"""The rule that makes one checkpoint of a run GOOD and an earlier one BAD.

GOOD has the least validation loss. BAD is the last step before it whose loss is at least `gap` nats
per token above GOOD's. The export of a run, its word budget and `--select-pair` all ask here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cdgen.errors import ModelError
from cdgen.train.metrics import METRICS, checkpoint_losses


class PairSteps(NamedTuple):
    good: int
    bad: int


def choose_pair_of_run(run: Path, gap: float) -> PairSteps:
    """Choose among all checkpoints of `run`; `gap` is its recipe's `bad_gap`. Raises ModelError if
    none is far enough behind GOOD."""
    losses = checkpoint_losses(run / METRICS)
    if not losses:
        raise ModelError(f"{run / METRICS} has no validation loss of a checkpoint: train again")
    advice = (
        "lower bad_gap in the recipe and run the same command again, or train into another --out"
        " with a lower checkpoint_every"
    )
    return choose_pair(run, losses, gap, advice)


def good_step(losses: Mapping[int, float]) -> int:
    """Return the step of the least loss, the earlier one of equal losses."""
    return min(losses, key=lambda step: (losses[step], step))


def choose_pair(run: Path, losses: Mapping[int, float], gap: float, advice: str) -> PairSteps:
    """Choose among the steps of `losses`, the earlier one of equal losses. Raises ModelError, with
    `advice`, if no step is far enough behind GOOD."""
    good = good_step(losses)
    earlier = {step: loss for step, loss in losses.items() if step < good}
    bad = max((s for s, loss in earlier.items() if loss >= losses[good] + gap), default=None)
    if bad is None:
        most = f", at most {max(earlier.values()) - losses[good]:.4f}" if earlier else ""
        raise ModelError(
            f"{run}: no checkpoint before GOOD (step {good}, loss {losses[good]:.4f}) is {gap:g}"
            f" nats/token above it{most}: {advice}"
        )
    return PairSteps(good, bad)
