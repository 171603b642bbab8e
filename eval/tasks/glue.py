"""(Super)GLUE as in BabyLM 2025: a causal LM fine-tuned per task, its last token classified.

Fields, their order, the words around them and the optimizer's settings are the official pipeline's.
That pipeline classifies the first token, which in a causal model has seen nothing of the text (its
issue #38), with a deeper head; here it is the last token and transformers' linear head, so scores
do not compare with official ones.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.errors import ModelError, UsageError

Row = dict[str, Any]  # "input_ids": list of tokens, "labels": one label


@dataclass(frozen=True)
class GlueTask:
    text: str  # a line's fields as one text, a newline between its two parts
    labels: int = 2
    batch_size: int = 32
    epochs: int = 10
    f1: bool = False  # report it beside the accuracy, and choose the best epoch by it


GLUE_TASKS = {
    "boolq": GlueTask("{question}\n{passage}", batch_size=16),
    "multirc": GlueTask("Question: {question} Answer: {answer}\n{paragraph}", batch_size=16),
    "rte": GlueTask("{sentence1}\n{sentence2}"),
    "wsc": GlueTask(
        'Does "{span2_text}" refer to "{span1_text}" in this passage?\n{text}', epochs=30
    ),
    "mrpc": GlueTask("{sentence1}\n{sentence2}", f1=True),
    "qqp": GlueTask("{question1}\n{question2}", f1=True),
    "mnli": GlueTask("{premise}\n{hypothesis}", labels=3),
}


@dataclass(frozen=True)
class GlueOutcome:
    predictions: np.ndarray  # [n] int64
    scores: np.ndarray  # [n, labels] float64 logits
    labels: np.ndarray  # [n] int64
    epoch: int  # that the scores are from; the first is 1


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
    """Trains the model in `folder` on data/{task}.train.jsonl, scores data/{task}.valid.jsonl.

    The last epoch's scores, or with `best_epoch`, as officially done, those of the epoch that does
    best on the scored items themselves: an optimistic figure. `work` is where Trainer would write.
    On a CPU the seed fixes every bit. Raises UsageError for bad data, ModelError for a bad model.
    """
    declared = GLUE_TASKS[task]
    epochs = epochs or declared.epochs
    model, tokenizer = load_classifier(folder, declared.labels, device, seed)
    limit = min(512, model.config.max_position_embeddings)
    read = partial(read_examples, task=declared, tokenizer=tokenizer, limit=limit)
    train, valid = read(data / f"{task}.train.jsonl"), read(data / f"{task}.valid.jsonl")
    if absent := set(range(declared.labels)) - {row["labels"] for row in train}:
        raise UsageError(f"{data / task}.train.jsonl has no line with label {min(absent)}")
    arguments = training_arguments(declared, work, device, seed, epochs, best_epoch)
    by_epoch = train_and_score(model, train, valid, arguments)
    if not np.isfinite(by_epoch).all():
        raise ModelError(f"{folder}, fine-tuned on {task}, gives scores that are not finite")
    labels, predictions = np.array([row["labels"] for row in valid]), by_epoch.argmax(-1)
    measure = f1 if declared.f1 else accuracy
    best = max(range(len(by_epoch)), key=lambda epoch: measure(predictions[epoch], labels))
    chosen = best + 1 if best_epoch else epochs
    return GlueOutcome(predictions[best], by_epoch[best], labels, chosen)


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:  # [n], [n]
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:  # [n], [n]
    """Of label 1; 0 where it is neither predicted nor there."""
    hits = np.sum((predictions == 1) & (labels == 1))
    return float(2 * hits / max(1, np.sum(predictions == 1) + np.sum(labels == 1)))


def load_classifier(folder: Path, labels: int, device: str, seed: int) -> tuple[Any, Any]:
    """The model in float32, its new head drawn with `seed`, and its tokenizer; or ModelError."""
    open_checkpoint(folder)
    set_seed(seed)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # else it reports that the checkpoint lacks the new head
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            num_labels=labels,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ModelError(f"transformers cannot classify with {folder}: {error!r:.300}") from error
    if missing := sorted(set(report["missing_keys"]) - {"score.weight"}):
        raise ModelError(f"{folder} lacks tensors of its model, {missing[0]} among them")
    # Logits in bfloat16, of three digits, would tie now and then, and a tie goes to label 0.
    model.score.forward = torch.autocast(device, enabled=False)(model.score.forward)
    return model, tokenizer


def read_examples(
    path: Path, task: GlueTask, tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[Row]:
    """Raises UsageError with the number of a line that is not as it must be."""
    rows = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                fields, label = parse(line, task, f"{path}:{number}")
                tokens = encode(fields, task.text, tokenizer, limit)
                rows.append({"input_ids": tokens, "labels": label})
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not rows:
        raise UsageError(f"{path} is empty: expected one JSON object per line")
    return rows


def parse(line: bytes, task: GlueTask, place: str) -> tuple[dict[str, str], int]:
    """The fields that the task's text names, and the label."""
    names = [name for _, name, _, _ in Formatter().parse(task.text) if name]
    try:
        row = json.loads(line)
        fields, label = {name: row[name] for name in names}, row["label"]
        "".join(fields.values()).encode()  # a number or half a surrogate is no text
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        expected = f"a JSON object with label and texts {', '.join(names)}"
        raise UsageError(f"{place}: expected {expected}, found {error!r:.150}") from error
    if type(label) is not int or not 0 <= label < task.labels:
        raise UsageError(f"{place}: expected label 0 to {task.labels - 1}, found {label!r:.50}")
    return fields, label


def encode(
    fields: dict[str, str], text: str, tokenizer: PreTrainedTokenizerBase, limit: int
) -> list[int]:
    """At most `limit` tokens: the longest field gives up its end, so that the last one survives."""
    while len(tokens := tokenizer(text.format(**fields), verbose=False)["input_ids"]) > limit:
        longest = max(fields, key=lambda name: len(fields[name]))
        if not fields[longest]:
            raise ModelError(f"a context of {limit} tokens is too short for {text!r}")
        kept = fields[longest].encode()[: limit - len(tokens)]  # no token is less than a byte
        fields = fields | {longest: kept.decode(errors="ignore")}
    return tokens


def train_and_score(
    model: PreTrainedModel, train: list[Row], valid: list[Row], arguments: TrainingArguments
) -> np.ndarray:  # [epochs or 1, n, labels] float64
    """The logits on `valid` after every epoch if `arguments` evaluate each, else after the last."""
    # transformers classifies the last token that is not padding, and a text may end in a special
    # token: so padding is a token that none ends in. It needs no mask, being to the right.
    endings = {row["input_ids"][-1] for row in train + valid}
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


def pad(rows: list[Row], padding: int) -> dict[str, torch.Tensor]:
    tokens = [torch.tensor(row["input_ids"]) for row in rows]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True, padding_value=padding),  # [B, T]
        "labels": torch.tensor([row["labels"] for row in rows]),  # [B]
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
    arguments._n_gpu = 1  # else Trainer gives every GPU that it sees a batch of this size
    return arguments
