"""Train one Llama from a recipe: the run whose checkpoints make the GOOD/BAD pair, or a student on
real text mixed with synthetic."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from cdgen.errors import PlanMismatch
from cdgen.train.config import Recipe, load_recipe
from cdgen.train.corpus import Corpus, build_corpus
from cdgen.train.pair import export_checkpoint, export_pair
from cdgen.train.synthetic import manifest_sha256
from cdgen.train.tokenizer import BOS_ID, EOS_ID, PAD_ID, for_transformers
from cdgen.train.validation import validation_losses


def train_recipe(path: Path, data_dir: Path, out: Path) -> None:
    """Trains the recipe at `path` on the files below `data_dir`.

    `out` gets checkpoints/, metrics.jsonl, mixture.json and pair/{good,bad}, or, where the recipe
    names no bad_gap, model/ from the last checkpoint. Running it again goes on from there. Raises
    UsageError for a bad recipe or bad data, PlanMismatch when `out` holds a run of another recipe
    or other corpora, ModelError when no checkpoint is fit to be BAD.
    """
    recipe = load_recipe(path)
    claim_folder(recipe, out)
    corpus = build_corpus(recipe, data_dir)
    write_mixture(recipe, corpus, out)
    run_training(recipe, corpus, out)
    if recipe.bad_gap is None:
        export_student(recipe, corpus.tokenizer, out)
    else:
        export_pair(recipe, corpus.tokenizer, corpus.validation, out)


def claim_folder(recipe: Recipe, out: Path) -> None:
    """Records the recipe and its corpora in `out`, or checks that those recorded are the same."""
    record = out / "recipe.json"
    corpora = recipe.synthetic.corpora if recipe.synthetic else ()
    hashes = {corpus.name: manifest_sha256(corpus.path) for corpus in corpora}
    wanted = json.dumps({**recipe.model_dump(mode="json"), "manifests": hashes}, indent=2)
    if not record.exists():
        out.mkdir(parents=True, exist_ok=True)
        record.write_text(wanted)
    elif record.read_text() != wanted:
        raise PlanMismatch(f"{out} holds a run of another recipe; name another --out or remove it")


def total_steps(recipe: Recipe) -> int:
    """The recipe's, and as many more as added synthetic text takes."""
    mixing, steps = recipe.synthetic, recipe.training.steps
    if mixing is None or mixing.mode == "replace":
        return steps
    return math.ceil(steps / (1 - Fraction(repr(mixing.ratio))))


def write_mixture(recipe: Recipe, corpus: Corpus, out: Path) -> None:
    """What every stream contributes to the whole run, for the record; says how often it repeats."""
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
    record = {"steps": total_steps(recipe), "sequences": positions, "streams": streams}
    (out / "mixture.json").write_text(json.dumps(record, indent=2) + "\n")
    for name, found in streams.items():
        print(f"{name}: {found['sequences']:,} sequences, read {found['epochs']:.2f} times over")


def new_model(recipe: Recipe) -> LlamaForCausalLM:
    """Seeded random weights, float32, tied embeddings."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocab_size,
        max_position_embeddings=recipe.block_size,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        **recipe.model.model_dump(),
    )
    return LlamaForCausalLM(config)


class Positions(Dataset[dict[str, torch.Tensor]]):
    """The whole run, position by position: what comes when is the mixture's to say."""

    def __init__(self, corpus: Corpus, count: int) -> None:
        self.corpus, self.count = corpus, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        stream, index = self.corpus.mixture.at(position)
        tokens = torch.from_numpy(self.corpus.train[stream][index]).long()
        return {"input_ids": tokens, "labels": tokens.masked_fill(tokens == PAD_ID, -100)}


class ValidateBeforeSaving(TrainerCallback):
    """Appends one line per checkpoint to metrics.jsonl: its step and its validation losses.

    It comes before the checkpoint, so every checkpoint on disk has its line; a step that is run
    again after an interruption has two, and the later one counts.
    """

    def __init__(self, validation: Mapping[str, np.ndarray], metrics: Path) -> None:
        self.validation = validation
        self.metrics = metrics

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **_: Any,
    ) -> None:
        if not control.should_save or model is None:
            return
        losses = validation_losses(model, self.validation)
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": state.global_step, "validation": losses}) + "\n")
        print(f"step {state.global_step}: validation", json.dumps(losses), flush=True)


def run_training(recipe: Recipe, corpus: Corpus, out: Path) -> None:
    """Trains to the last step, from the last checkpoint in out/checkpoints if there is one."""
    checkpoints = out / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    steps = total_steps(recipe)
    if (checkpoints / f"checkpoint-{steps}").exists():
        return
    trainer = Trainer(
        model=new_model(recipe),
        args=training_arguments(recipe, checkpoints),
        train_dataset=Positions(corpus, steps * recipe.training.batch_blocks),
        callbacks=[ValidateBeforeSaving(corpus.validation, out / "metrics.jsonl")],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)))


def training_arguments(recipe: Recipe, checkpoints: Path) -> TrainingArguments:
    training = recipe.training
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=total_steps(recipe),
        train_sampling_strategy="sequential",  # the mixture shuffles
        per_device_train_batch_size=training.micro_batch_blocks,
        gradient_accumulation_steps=training.batch_blocks // training.micro_batch_blocks,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        # Runs of a few thousand steps: the default 0.999 averages over too much of them.
        adam_beta2=0.95,
        max_grad_norm=training.max_grad_norm,
        use_cpu=not torch.cuda.is_available(),  # without it, Trainer refuses bf16 on a CPU
        bf16=training.bf16,
        torch_compile=training.compile,
        dataloader_drop_last=True,  # one shape, so one compilation
        save_steps=training.checkpoint_every,
        logging_steps=max(1, training.checkpoint_every // 10),
        seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,
    )


def export_student(recipe: Recipe, tokenizer: Tokenizer, out: Path) -> None:
    """out/model, from the last checkpoint."""
    export_checkpoint(out / "checkpoints" / f"checkpoint-{total_steps(recipe)}", out / "model")
    for_transformers(tokenizer, recipe.block_size).save_pretrained(out / "model")
