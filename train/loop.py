"""Training one model from a recipe: the base run whose checkpoints make the GOOD/BAD pair, or a
student on real text mixed with synthetic."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from cdgen.errors import UsageError
from cdgen.storage import make_folder, write_atomic
from cdgen.train.callbacks import Milestones, Progress, Validate
from cdgen.train.checkpoints import MARKER, last_complete, milestone_steps, require_whole, step_of
from cdgen.train.config import Recipe, load_recipe
from cdgen.train.data.packing import read_and_taught
from cdgen.train.data.training_data import TrainingData, build_training_data
from cdgen.train.data.words import words_read
from cdgen.train.export import export_pair, export_student
from cdgen.train.metrics import METRICS, drop_metrics_after
from cdgen.train.model import new_model, read_config
from cdgen.train.readings import write_run_budget
from cdgen.train.record import disk_trouble, hold_folder, record_of, require_same, write_record
from cdgen.train.trainer import RunTrainer, gradient_accumulation_steps
from cdgen.train.view import TrainingView


def train_recipe(path: Path, data_dir: Path, out: Path) -> None:
    """Train the recipe at `path` on the files below `data_dir`; under torchrun, call it in each
    process.

    `out` gets checkpoints/, metrics.jsonl, mixture.json, and pair/{good,bad}, or, if the recipe
    names no bad_gap, model/ from the last checkpoint. Calling it again resumes. Raises UsageError
    for a bad recipe or bad data, PlanMismatch if `out` holds something else, ModelError if a loss
    is not finite, a checkpoint is damaged or none is fit to be BAD, StorageError if another run
    holds `out` or a file cannot be read or written.
    """
    recipe = load_recipe(path)
    processes = PartialState(cpu=not torch.cuda.is_available())
    is_main = processes.is_main_process
    gradient_accumulation_steps(recipe.training, processes.num_processes)
    _require_tensorboard(recipe)
    with disk_trouble(out), hold_folder(out) if is_main else nullcontext():
        with processes.main_process_first():  # the other processes find and check what it recorded
            data, model = prepare(recipe, data_dir, out)
        if is_main:
            write_mixture(recipe, data, out)
        run_training(recipe, data, model, out)
        if is_main:
            export = export_student if recipe.bad_gap is None else export_pair
            export(recipe, data, out)
            write_run_budget(out)


def prepare(recipe: Recipe, data_dir: Path, out: Path) -> tuple[TrainingData, PreTrainedModel]:
    """Build the training data and the model, then record the recipe in `out`."""
    if isinstance(recipe.model, Path):
        read_config(recipe.model, recipe.block_size)  # a bad one is refused before text is read
    record = record_of(recipe, data_dir)
    require_same(out, record)
    data = build_training_data(recipe, data_dir, out)
    model = new_model(recipe, data.special)
    write_record(out, record)
    return data, model


def _require_tensorboard(recipe: Recipe) -> None:
    if recipe.training.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("training.tensorboard: pip install tensorboard, or set it to false")


def write_mixture(recipe: Recipe, data: TrainingData, out: Path) -> None:
    """Record what every stream contributes to the whole run, and the texts in it; report how often
    a stream repeats."""
    positions = recipe.total_steps * recipe.training.batch_blocks
    counts, repeats = data.mixture.counts(positions), data.mixture.repeats(positions)
    streams = {
        share.name: {
            "share": float(share.share),
            "sequences": count,
            "tokens": count * recipe.block_size,
            "epochs": repeats[share.name],
        }
        for share, count in zip(data.mixture.shares, counts, strict=True)
    }
    record = {
        "steps": recipe.total_steps,
        "sequences": positions,
        "streams": streams,
        "texts": {name: text.facts for name, text in data.texts.items()},
    }
    write_atomic(out / "mixture.json", (json.dumps(record, indent=2) + "\n").encode())
    for name, found in streams.items():
        print(f"{name}: {found['sequences']:,} sequences, read {found['epochs']:.2f} times over")


class MixtureDataset(Dataset[dict[str, torch.Tensor]]):
    """The positions of the whole run, in order; the mixture decides which sequence each one is."""

    def __init__(self, data: TrainingData, positions: int) -> None:
        self.data, self.positions = data, positions

    def __len__(self) -> int:
        return self.positions

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:  # input_ids, labels: [T]
        stream, index = self.data.mixture.at(position)
        block = torch.from_numpy(self.data.train[stream][index].astype(np.int64))
        return dict(zip(("input_ids", "labels"), read_and_taught(block), strict=True))


def run_training(recipe: Recipe, data: TrainingData, model: PreTrainedModel, out: Path) -> None:
    """Train to the last step, from the last complete checkpoint if there is one."""
    checkpoints = out / "checkpoints"
    make_folder(checkpoints)
    resume, skipped = last_complete(checkpoints)
    if resume and step_of(resume) == recipe.total_steps:
        return
    if resume:
        require_whole(resume)
    view = TrainingView(PartialState().is_main_process)
    trainer = new_trainer(recipe, data, model, out, view)
    if trainer.is_world_process_zero():
        for folder in skipped:
            print(f"{folder}: never finished ({MARKER} is missing), skipped", file=sys.stderr)
        drop_metrics_after(out / METRICS, step_of(resume) if resume else 0)
    disable_progress_bar()  # it would show a bar for every file that is loaded or saved
    with view:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def new_trainer(
    recipe: Recipe, data: TrainingData, model: PreTrainedModel, out: Path, view: TrainingView
) -> RunTrainer:
    training, steps = recipe.training, recipe.total_steps
    checkpoints, metrics = out / "checkpoints", out / METRICS
    tokenizer = data.pretrained_tokenizer(recipe.block_size)
    words = words_read(data.mixture, data.epoch_words, training.batch_blocks)
    due = milestone_steps(words, steps) if training.milestones else {}
    return RunTrainer(
        model,
        training,
        tokenizer,
        words,
        args=training_arguments(recipe, checkpoints),
        train_dataset=MixtureDataset(data, steps * training.batch_blocks),
        callbacks=[
            Progress(metrics, training.batch_blocks * recipe.block_size, view),
            Validate(data.validation, metrics, Milestones(checkpoints, due, words, tokenizer)),
        ],
    )


def training_arguments(recipe: Recipe, checkpoints: Path) -> TrainingArguments:
    training, processes = recipe.training, PartialState().num_processes
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=recipe.total_steps,
        train_sampling_strategy="sequential",  # the mixture shuffles already
        per_device_train_batch_size=training.micro_batch_blocks,
        gradient_accumulation_steps=gradient_accumulation_steps(training, processes),
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=training.warmup_steps,
        max_grad_norm=training.max_grad_norm,
        use_cpu=not torch.cuda.is_available(),  # without it, Trainer refuses bf16 on a CPU
        bf16=training.bf16,
        torch_compile=training.compile,
        dataloader_drop_last=True,  # the only shape, so it compiles once
        save_steps=training.checkpoint_every,
        logging_steps=max(1, training.checkpoint_every // 10),
        logging_nan_inf_filter=False,  # that would hide NaN; RunTrainer stops at it
        ddp_find_unused_parameters=False,  # every weight has a gradient at every step
        seed=recipe.seed,
        report_to="tensorboard" if training.tensorboard else "none",
        disable_tqdm=True,
    )
    # Without torchrun, Trainer would use all GPUs, each with a whole micro-batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
