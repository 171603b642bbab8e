"""Choose GOOD and BAD among a run's checkpoints and export both with their model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from cdgen.errors import ModelError
from cdgen.train.config import Recipe
from cdgen.train.tokenizer import for_transformers
from cdgen.train.validation import validation_losses

EXPORT_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Exported:
    step: int
    parameters: int
    losses: dict[str, float]  # per source and "all", nats/token, of the exported weights


def export_pair(
    recipe: Recipe, tokenizer: Tokenizer, validation: Mapping[str, np.ndarray], out: Path
) -> None:
    """Writes out/pair/{good,bad} and out/pair/README.md from a finished run.

    Raises ModelError when no checkpoint is far enough behind GOOD to be BAD.
    """
    good_step, bad_step = choose_pair(checkpoint_losses(out / "metrics.jsonl"), recipe.bad_gap)
    exported = {}
    for role, step in (("good", good_step), ("bad", bad_step)):
        folder = out / "pair" / role
        checkpoint = out / "checkpoints" / f"checkpoint-{step}"
        LlamaForCausalLM.from_pretrained(checkpoint, dtype=EXPORT_DTYPE).save_pretrained(folder)
        for_transformers(tokenizer, recipe.block_size).save_pretrained(folder)
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        exported[role] = Exported(
            step, model.num_parameters(), validation_losses(model, validation)
        )
    card = model_card(recipe, exported["good"], exported["bad"])
    (out / "pair" / "README.md").write_text(card, encoding="utf-8")


def checkpoint_losses(metrics: Path) -> dict[int, float]:
    """Step to validation loss over all sources; the last line of a step counts."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {line["step"]: line["validation"]["all"] for line in lines}


def choose_pair(losses: Mapping[int, float], gap: float) -> tuple[int, int]:
    """(GOOD's step, BAD's step): the least loss, and the last step before it `gap` nats above."""
    good = min(losses, key=lambda step: (losses[step], step))
    worse = [step for step in losses if step < good and losses[step] >= losses[good] + gap]
    if not worse:
        raise ModelError(
            f"no checkpoint before step {good} (loss {losses[good]:.3f}) is {gap} nats/token "
            "above it; lower bad_gap or checkpoint_every in the recipe"
        )
    return good, max(worse)


def model_card(recipe: Recipe, good: Exported, bad: Exported) -> str:
    training, shape = recipe.training, recipe.model
    tokens = training.batch_blocks * recipe.block_size
    loss_rows = "\n".join(
        f"| {source} | {good.losses[source]:.3f} | {bad.losses[source]:.3f} |"
        for source in good.losses
    )
    data_rows = "\n".join(
        f"| {source.name} | `{source.path.name}` | {source.licence} | {source.repeat} "
        f"| {source.validation} |"
        for source in recipe.sources
    )
    return f"""\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# {recipe.name}: a GOOD/BAD pair of small Llamas

Two checkpoints of one training run. `good` is the one with the least held-out loss (step
{good.step}), `bad` an early one (step {bad.step}): the last at least {recipe.bad_gap} nats per
token behind.

**Intended use:** demonstrations and tests of contrastive decoding on a machine without a GPU. The
models know the texts named below and nothing else; they are of no use for anything but that.

## Held-out loss, nats per token
Measured on the weights as exported ({str(EXPORT_DTYPE).removeprefix("torch.")}), in float32, over
whole works that training never saw.

| source | good | bad |
|---|---|---|
{loss_rows}

## Architecture
Llama, {good.parameters:,} parameters: {shape.num_hidden_layers} layers, width
{shape.hidden_size}, {shape.num_attention_heads} heads ({shape.num_key_value_heads} for keys and
values), gated feed-forward {shape.intermediate_size}, tied embeddings, context
{recipe.block_size}. Byte-level BPE with {recipe.vocab_size} tokens; `<s>` begins every text.

## Data
| source | file | licence | copies per epoch | works held out |
|---|---|---|---|---|
{data_rows}

Books are cut into chapters, hard-wrapped lines joined, emphasis marks and headings dropped.

## Training
`good` saw {good.step * tokens / 1e6:.1f} M tokens, `bad` {bad.step * tokens / 1e6:.1f} M, in steps
of {tokens:,}. AdamW, learning rate {training.learning_rate:g} with {training.warmup_steps}
warm-up steps and a cosine to zero at step {training.steps}, weight decay
{training.weight_decay:g}, gradient clipping at {training.max_grad_norm:g}, seed {recipe.seed}.
Documents were packed into blocks of {recipe.block_size} tokens without a mask between them.

    cdgen train --config recipes/{recipe.name}.yaml --data DATA --out out/{recipe.name}

trains the pair again; `DATA` is the folder with the files above. Other hardware rounds
differently: expect losses close to these, not the same bits.
"""
