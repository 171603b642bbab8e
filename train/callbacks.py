"""Reports of a run while it trains: metrics.jsonl, its progress, milestone checkpoints."""

from __future__ import annotations

import json
import math
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
from cdgen.train.view import Pace, TrainingView


class Progress(TrainerCallback):
    """Loss, learning rate, speed and remaining time, written to metrics.jsonl and shown.

    The speed is that of training alone; the remaining time includes validation and saving.
    """

    def __init__(self, metrics: Path, step_tokens: int, view: TrainingView) -> None:
        self.metrics, self.step_tokens, self.view = metrics, step_tokens, view
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
        if state.is_world_process_zero:
            self.view.step(self._pace(state))

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
        pace = self._pace(state)
        self.last_logged, self.training_s = pace.step, 0.0
        found = {name: logs[name] for name in ("loss", "learning_rate")}
        speeds = {
            "tokens_per_second": round(pace.tokens_per_second, 1),
            "eta_seconds": round(pace.eta_seconds),
        }
        append_metrics(self.metrics, {"step": pace.step, **found, **speeds})
        self.view.logged(pace, **found)

    def _pace(self, state: TrainerState) -> Pace:
        """Return the speed since the last logged step, and the time left by that of the run."""
        step = state.global_step
        tokens = (step - self.last_logged) * self.step_tokens
        per_step = (time.monotonic() - self.began) / (step - self.first)
        return Pace(
            step,
            state.max_steps,
            tokens_per_second=tokens / max(self.training_s, 1e-9),
            eta_seconds=per_step * (state.max_steps - step),
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
