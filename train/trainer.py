"""The Trainer of a run: its optimizer, a check of every step's loss, complete checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from cdgen.errors import UsageError
from cdgen.train.callbacks import require_finite
from cdgen.train.checkpoints import mark_complete
from cdgen.train.optimizer import new_optimizer

if TYPE_CHECKING:
    from cdgen.train.config import Training


class RunTrainer(Trainer):
    """A Trainer that stops at a loss that is not finite, and marks its checkpoints complete.

    `words` gives the words read in the first n steps; `trainer_arguments` go to Trainer.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        training: Training,
        tokenizer: PreTrainedTokenizerBase,
        words: Callable[[int], int],
        **trainer_arguments: Any,
    ) -> None:
        super().__init__(model=model, **trainer_arguments)
        self.remove_callback(PrinterCallback)  # `Progress` reports it
        self.bare_model, self.training = model, training
        self.tokenizer, self.words = tokenizer, words
        self._step_loss: torch.Tensor | float = 0.0

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = new_optimizer(self.bare_model, self.training)
        return self.optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Raise ModelError, in every process, before a loss that is not finite changes a weight."""
        loss = super().training_step(*args, **kwargs)
        self._step_loss = loss + self._step_loss
        if self.accelerator.sync_gradients:  # the step's last micro-batch
            # Read once per step, because a GPU waits for it.
            mean = self.accelerator.gather(self._step_loss).mean().item()
            require_finite(mean, self.state.global_step + 1)
            self._step_loss = 0.0
        return loss

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load to a device that torch.load accepts: Trainer's own passes "cpu:0" if processes share
        a CPU."""
        assert checkpoint and self.optimizer and self.lr_scheduler  # only called on a resume
        for part, name in ((self.optimizer, OPTIMIZER_NAME), (self.lr_scheduler, SCHEDULER_NAME)):
            path = Path(checkpoint, name)
            part.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Ignore the missing tensor of a head that is tied to the embedding."""
        tied = self.bare_model.all_tied_weights_keys
        load_result.missing_keys[:] = [k for k in load_result.missing_keys if k not in tied]
        super()._issue_warnings_after_load(load_result)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes a file of its own
        if self.is_world_process_zero():
            step = self.state.global_step
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{step}"
            # Not through `processing_class`: that changes the model's generation config.
            self.tokenizer.save_pretrained(folder)
            mark_complete(folder, {"step": step, "words": self.words(step)})


def gradient_accumulation_steps(training: Training, processes: int) -> int:
    """Return the micro-batches per process and step that make the recipe's step, however many
    processes share it."""
    at_once = training.micro_batch_blocks * processes
    if training.batch_blocks % at_once:
        raise UsageError(
            f"batch_blocks: expected a multiple of micro_batch_blocks x processes ="
            f" {training.micro_batch_blocks} x {processes}, got {training.batch_blocks}; change"
            " micro_batch_blocks or the number of processes"
        )
    return training.batch_blocks // at_once
