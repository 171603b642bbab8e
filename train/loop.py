"""Training one model from a recipe: the base run whose checkpoints make the GOOD/BAD pair, or a
student on real text mixed with synthetic."""

from __future__ import annotations

import json
import math
import sys
from contextlib import nullcontext
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from cdgen.errors import UsageError
from cdgen.storage import write_atomic
from cdgen.train.callbacks import Milestones, Progress, Validate, forget_after
from cdgen.train.checkpoints import MARKER, last_complete, milestone_steps, require_whole, step_of
from cdgen.train.config import Recipe, load_recipe
from cdgen.train.data.packing import read_and_taught
from cdgen.train.data.tokenizer import for_transformers
from cdgen.train.data.training_data import TrainingData, build_corpus
from cdgen.train.data.words import words_read
from cdgen.train.model import new_model
from cdgen.train.pair import export_checkpoint, export_pair
from cdgen.train.record import disk_trouble, hold_folder, record_of, require_same, write_record
from cdgen.train.run_budget import write_run_budget
from cdgen.train.trainer import RunTrainer, accumulation


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
    accumulation(recipe.training, processes.num_processes)
    _require_tensorboard(recipe)
    with disk_trouble(out), hold_folder(out) if is_main else nullcontext():
        with processes.main_process_first():  # the other processes find and check what it recorded
            corpus, model = prepare(recipe, data_dir, out)
        if is_main:
            write_mixture(recipe, corpus, out)
        run_training(recipe, corpus, model, out)
        if is_main:
            export = export_student if recipe.bad_gap is None else export_pair
            export(recipe, corpus, out)
            write_run_budget(out)


def prepare(recipe: Recipe, data_dir: Path, out: Path) -> tuple[TrainingData, PreTrainedModel]:
    """Build the training data and the model, then record the recipe in `out`."""
    record = record_of(recipe, data_dir)
    require_same(out, record)
    corpus = build_corpus(recipe, data_dir, out)
    model = new_model(recipe, corpus.special)
    write_record(out, record)
    return corpus, model


def _require_tensorboard(recipe: Recipe) -> None:
    if recipe.training.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("training.tensorboard: pip install tensorboard, or set it to false")


def total_steps(recipe: Recipe) -> int:
    """Return the recipe's steps, plus those that added synthetic text needs."""
    mixing, steps = recipe.synthetic, recipe.training.steps
    if mixing is None or mixing.mode == "replace":
        return steps
    return math.ceil(steps / (1 - Fraction(repr(mixing.ratio))))


def write_mixture(recipe: Recipe, corpus: TrainingData, out: Path) -> None:
    """Record what every stream contributes to the whole run, and the texts in it; report how often
    a stream repeats."""
    positions = total_steps(recipe) * recipe.training.batch_blocks
    counts, repeats = corpus.mixture.counts(positions), corpus.mixture.repeats(positions)
    streams = {
        share.name: {
            "share": float(share.share),
            "sequences": count,
            "tokens": count * recipe.block_size,
            "epochs": repeats[share.name],
        }
        for share, count in zip(corpus.mixture.shares, counts, strict=True)
    }
    record = {
        "steps": total_steps(recipe),
        "sequences": positions,
        "streams": streams,
        "texts": {name: text.facts for name, text in corpus.texts.items()},
    }
    write_atomic(out / "mixture.json", (json.dumps(record, indent=2) + "\n").encode())
    for name, found in streams.items():
        print(f"{name}: {found['sequences']:,} sequences, read {found['epochs']:.2f} times over")


class Positions(Dataset[dict[str, torch.Tensor]]):
    """The positions of the whole run, in order; the mixture decides which sequence each one is."""

    def __init__(self, corpus: TrainingData, count: int) -> None:
        self.corpus, self.count = corpus, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        stream, index = self.corpus.mixture.at(position)
        block = torch.from_numpy(self.corpus.train[stream][index].astype(np.int64))
        return dict(zip(("input_ids", "labels"), read_and_taught(block), strict=True))


def run_training(recipe: Recipe, corpus: TrainingData, model: PreTrainedModel, out: Path) -> None:
    """Train to the last step, from the last complete checkpoint if there is one."""
    checkpoints, metrics, steps = out / "checkpoints", out / "metrics.jsonl", total_steps(recipe)
    checkpoints.mkdir(exist_ok=True)
    resume, skipped = last_complete(checkpoints)
    if resume and step_of(resume) == steps:
        return
    if resume:
        require_whole(resume)
    arguments = training_arguments(recipe, checkpoints)
    if arguments.process_index == 0:
        for folder in skipped:
            print(f"{folder}: never finished ({MARKER} is missing), skipped", file=sys.stderr)
        forget_after(metrics, step_of(resume) if resume else 0)
    disable_progress_bar()  # a bar for every file that is loaded or saved
    tokenizer = for_transformers(corpus.tokenizer, recipe.block_size, corpus.names)
    words = words_read(corpus.mixture, corpus.epoch_words, recipe.training.batch_blocks)
    due = milestone_steps(words, steps) if recipe.training.milestones else {}
    milestones = Milestones(checkpoints, due, words, tokenizer)
    trainer = RunTrainer(
        model,
        recipe.training,
        tokenizer,
        words,
        args=arguments,
        train_dataset=Positions(corpus, steps * recipe.training.batch_blocks),
        callbacks=[
            Progress(metrics, recipe.training.batch_blocks * recipe.block_size),
            Validate(corpus.validation, metrics, milestones),
        ],
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def training_arguments(recipe: Recipe, checkpoints: Path) -> TrainingArguments:
    training = recipe.training
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=total_steps(recipe),
        train_sampling_strategy="sequential",  # the mixture shuffles already
        per_device_train_batch_size=training.micro_batch_blocks,
        gradient_accumulation_steps=accumulation(training, PartialState().num_processes),
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


def export_student(recipe: Recipe, corpus: TrainingData, out: Path) -> None:
    """Write out/model from the last checkpoint."""
    export_checkpoint(out / "checkpoints" / f"checkpoint-{total_steps(recipe)}", out / "model")
    tokenizer = for_transformers(corpus.tokenizer, recipe.block_size, corpus.names)
    tokenizer.save_pretrained(out / "model")
