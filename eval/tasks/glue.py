"""(Super)GLUE as in BabyLM 2025: a causal model is fine-tuned per task to classify a text.

The texts and the optimizer's settings are those of the official pipeline. That pipeline classifies
the first token, which in a causal model has seen nothing of the text (its issue #38), with a deeper
head. Here transformers' linear head classifies the last token, so scores cannot be compared with
official ones.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.pretrained import load_pretrained_tokenizer, load_sequence_classifier
from cdgen.errors import ModelError, UsageError
from cdgen.eval.tasks.glue_examples import GLUE_TASKS, Example, GlueTask, read_examples


@dataclass(frozen=True)
class GlueOutcome:
    predictions: np.ndarray  # [n] int64
    scores: np.ndarray  # [n, labels] float64 logits
    labels: np.ndarray  # [n] int64
    epoch: int  # the epoch after which the scores were taken, from 1 on


def fine_tune(
    folder: Path,
    data: Path,
    task: str,
    work: Path,
    *,
    device: str,
    seed: int = 42,
    epochs: int | None = None,
    best_epoch: bool = False,
) -> GlueOutcome:
    """Train the model in `folder` on data/{task}.train.jsonl and score data/{task}.valid.jsonl.

    The scores are those after the last epoch. With `best_epoch` they are, as in the official
    pipeline, those of the epoch that does best on the scored items themselves, which is optimistic.
    `work` is Trainer's output folder. On a CPU the seed fixes every bit. Raises UsageError for bad
    data, ModelError for a bad model.
    """
    declared = GLUE_TASKS[task]
    epochs = epochs or declared.epochs
    model, tokenizer = load_classifier(folder, declared.labels, device, seed)
    limit = min(512, model.config.max_position_embeddings)
    read = partial(read_examples, task=declared, tokenizer=tokenizer, limit=limit)
    train, valid = read(data / f"{task}.train.jsonl"), read(data / f"{task}.valid.jsonl")
    _require_rows(folder, model.config.vocab_size, train + valid)
    if absent := set(range(declared.labels)) - {example["labels"] for example in train}:
        raise UsageError(f"{data / task}.train.jsonl has no line with label {min(absent)}")
    arguments = training_arguments(declared, work, device, seed, epochs, best_epoch)
    by_epoch = train_and_score(model, train, valid, arguments)
    if not np.isfinite(by_epoch).all():
        raise ModelError(f"{folder}, fine-tuned on {task}, gives scores that are not finite")
    labels, predictions = np.array([example["labels"] for example in valid]), by_epoch.argmax(-1)
    measure = f1 if declared.f1 else accuracy
    best = max(range(len(by_epoch)), key=lambda epoch: measure(predictions[epoch], labels))
    chosen = best + 1 if best_epoch else epochs
    return GlueOutcome(predictions[best], by_epoch[best], labels, chosen)


def _require_rows(folder: Path, rows: int, examples: list[Example]) -> None:
    """Raise UsageError for a token that the model has no row for."""
    highest = max(token for example in examples for token in example["input_ids"])
    if highest >= rows:
        raise UsageError(f"a text holds token {highest}, but {folder} has {rows} rows")


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:  # [n], [n]
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:  # [n], [n]
    """Return the F1 score of label 1; 0 if no item has it or is predicted to have it."""
    hits = np.sum((predictions == 1) & (labels == 1))
    return float(2 * hits / max(1, np.sum(predictions == 1) + np.sum(labels == 1)))


def load_classifier(folder: Path, labels: int, device: str, seed: int) -> tuple[Any, Any]:
    """Return the model in float32, with a new head drawn from `seed`, and its tokenizer.

    Raises ModelError.
    """
    open_checkpoint(folder)
    set_seed(seed)
    tokenizer, model = load_pretrained_tokenizer(folder), load_sequence_classifier(folder, labels)
    # bfloat16 logits have three digits: some would tie, and a tie goes to label 0.
    model.score.forward = torch.autocast(device, enabled=False)(model.score.forward)
    return model, tokenizer


def train_and_score(
    model: PreTrainedModel, train: list[Example], valid: list[Example], arguments: TrainingArguments
) -> np.ndarray:  # [epochs or 1, n, labels] float64
    """Return the logits on `valid`, after every epoch if `arguments` evaluate each, else after the
    last one."""
    # transformers classifies the last token that is not padding, and a text may end in a special
    # token; so padding is a token that no text ends in. On the right, it needs no mask.
    endings = {example["input_ids"][-1] for example in train + valid}
    model.config.pad_token_id = padding = min(set(range(model.config.vocab_size)) - endings)
    by_epoch: list[np.ndarray] = []

    def keep(evaluated: EvalPrediction) -> dict[str, float]:
        by_epoch.append(np.asarray(evaluated.predictions, dtype=np.float64))
        return {}

    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=partial(pad, padding=padding),
        train_dataset=train,
        eval_dataset=valid,
        compute_metrics=keep,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    if not by_epoch:
        trainer.evaluate()
    return np.stack(by_epoch)


def pad(examples: list[Example], padding: int) -> dict[str, torch.Tensor]:
    tokens = [torch.tensor(example["input_ids"]) for example in examples]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True, padding_value=padding),  # [B, T]
        "labels": torch.tensor([example["labels"] for example in examples]),  # [B]
    }


def training_arguments(
    task: GlueTask, work: Path, device: str, seed: int, epochs: int, every_epoch: bool
) -> TrainingArguments:
    on_gpu = device != "cpu"
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=epochs,
        per_device_train_batch_size=task.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=3e-5,
        weight_decay=0.01,
        warmup_steps=0.06,  # of all steps
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        max_grad_norm=0.0,  # the official pipeline does not clip
        use_cpu=not on_gpu,
        bf16=on_gpu,
        seed=seed,
        eval_strategy="epoch" if every_epoch else "no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )
    arguments._n_gpu = 1  # otherwise Trainer gives every visible GPU a batch of this size
    return arguments
