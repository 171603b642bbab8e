"""Reports of a run while it trains: metrics.jsonl, lines of progress, milestone checkpoints."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from cdgen.errors import ModelError
from cdgen.train.checkpoints import save_milestone
from cdgen.train.metrics import append_metrics
from cdgen.train.validation import validation_losses


class Progress(TrainerCallback):
    """Loss, learning rate, speed and remaining time, written to metrics.jsonl and to stderr.

    The speed is that of training alone; the remaining time includes validation and saving.
    """

    def __init__(self, metrics: Path, step_tokens: int) -> None:
        self.metrics, self.step_tokens = metrics, step_tokens
        self.began = self.step_began = self.training_s = 0.0
        self.first = self.last_logged = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.began = time.monotonic()
        self.first = self.last_logged = state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.step_began = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.training_s += time.monotonic() - self.step_began

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        # The last call of a run sums it up, without a loss.
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        step = state.global_step
        tokens = (step - self.last_logged) * self.step_tokens
        speed = tokens / max(self.training_s, 1e-9)
        per_step = (time.monotonic() - self.began) / (step - self.first)
        left = round(per_step * (state.max_steps - step))
        self.last_logged, self.training_s = step, 0.0
        found = {name: logs[name] for name in ("loss", "learning_rate")}
        speeds = {"tokens_per_second": round(speed, 1), "eta_seconds": left}
        append_metrics(self.metrics, {"step": step, **found, **speeds})
        print(
            f"step {step}/{state.max_steps}: loss {found['loss']:.4f}, learning rate"
            f" {found['learning_rate']:.3g}, {speed:,.0f} tokens/s,"
            f" ETA {left // 3600}:{left // 60 % 60:02}:{left % 60:02}",
            file=sys.stderr,
            flush=True,
        )


@dataclass(frozen=True)
class Milestones:
    """Milestone folders that are due after a step, beside the Trainer's own checkpoints."""

    folder: Path
    due: Mapping[int, list[str]]
    words: Callable[[int], int]
    tokenizer: PreTrainedTokenizerBase

    def save(self, model: PreTrainedModel, step: int, losses: Mapping[str, float]) -> None:
        facts = {"step": step, "words": self.words(step), "validation": dict(losses)}
        for name in self.due.get(step, ()):
            save_milestone(model, self.tokenizer, self.folder / name, facts)


class Validate(TrainerCallback):
    """Validation losses of every checkpoint.

    They are recorded before the checkpoint is written, so every checkpoint on disk has its line;
    those of a milestone are in its marker. Raises ModelError if a loss is not finite, so that such
    weights reach no checkpoint.
    """

    def __init__(
        self, validation: Mapping[str, np.ndarray], metrics: Path, milestones: Milestones
    ) -> None:
        self.validation, self.metrics, self.milestones = validation, metrics, milestones

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **_: Any,
    ) -> None:
        step = state.global_step
        due = control.should_save or step in self.milestones.due
        if not due or model is None or not state.is_world_process_zero:
            return
        losses = validation_losses(model, self.validation)
        require_finite(losses["all"], step, "validation loss")
        if control.should_save:
            append_metrics(self.metrics, {"step": step, "validation": losses})
        print(f"step {step}: validation", json.dumps(losses), flush=True)
        self.milestones.save(model, step, losses)


def require_finite(loss: float, step: int, what: str = "loss") -> None:
    if not math.isfinite(loss):
        raise ModelError(
            f"step {step}: the {what} is {loss}; training stopped, and the checkpoints before it"
            " are kept. Lower learning_rate or raise warmup_steps in the recipe, and train into"
            " another --out"
        )
