"""Train one Llama from a recipe and export the GOOD/BAD pair of its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
from cdgen.train.data import encode, pack, read_documents, split_documents, training_blocks
from cdgen.train.pair import export_pair
from cdgen.train.tokenizer import BOS_ID, EOS_ID, PAD_ID, train_tokenizer
from cdgen.train.validation import validation_losses


@dataclass(frozen=True)
class Corpus:
    tokenizer: Tokenizer
    train: np.ndarray  # [blocks, block_size] int32, one epoch
    validation: dict[str, np.ndarray]  # per source, likewise


def train_recipe(path: Path, data_dir: Path, out: Path) -> None:
    """Trains the recipe at `path` on the files below `data_dir`.

    `out` gets checkpoints/, metrics.jsonl and pair/{good,bad}. Running it again goes on from the
    last checkpoint. Raises UsageError for a bad recipe or bad data, PlanMismatch when `out` holds
    a run of another recipe, ModelError when no checkpoint is fit to be BAD.
    """
    recipe = load_recipe(path)
    claim_folder(recipe, out)
    corpus = build_corpus(recipe, data_dir)
    run_training(recipe, corpus, out)
    export_pair(recipe, corpus.tokenizer, corpus.validation, out)


def claim_folder(recipe: Recipe, out: Path) -> None:
    """Records the recipe in `out`, or checks that the one recorded there is the same."""
    record = out / "recipe.json"
    wanted = recipe.model_dump_json(indent=2)
    if not record.exists():
        out.mkdir(parents=True, exist_ok=True)
        record.write_text(wanted)
    elif record.read_text() != wanted:
        raise PlanMismatch(f"{out} holds a run of another recipe; name another --out or remove it")


def build_corpus(recipe: Recipe, data_dir: Path) -> Corpus:
    train, held_out = [], {}
    for source in recipe.sources:
        documents = read_documents(source, data_dir)
        mine, theirs = split_documents(documents, source.validation, recipe.seed)
        train.append((mine, source.repeat))
        held_out[source.name] = theirs
    texts = (doc.text for docs, repeat in train for doc in docs for _ in range(repeat))
    tokenizer = train_tokenizer(texts, recipe.vocab_size)
    encoded = [(encode(tokenizer, docs), repeat) for docs, repeat in train]
    return Corpus(
        tokenizer,
        training_blocks(encoded, recipe.block_size, recipe.seed),
        {name: pack(encode(tokenizer, docs), recipe.block_size) for name, docs in held_out.items()},
    )


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


class Blocks(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, blocks: np.ndarray) -> None:
        self.blocks = blocks  # [blocks, block_size] int32

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.from_numpy(self.blocks[index]).long()
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
    if (checkpoints / f"checkpoint-{recipe.training.steps}").exists():
        return  # Trainer, resumed there, would take one step more in the middle of an epoch
    trainer = Trainer(
        model=new_model(recipe),
        args=training_arguments(recipe, checkpoints),
        train_dataset=Blocks(corpus.train),
        callbacks=[ValidateBeforeSaving(corpus.validation, out / "metrics.jsonl")],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)))


def training_arguments(recipe: Recipe, checkpoints: Path) -> TrainingArguments:
    training = recipe.training
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=training.steps,
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
