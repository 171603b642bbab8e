"""The pair of a run: GOOD and BAD chosen among its checkpoints, and exported with a model card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from cdgen.errors import ModelError
from cdgen.train.checkpoints import mark_complete, require_whole
from cdgen.train.config import Recipe
from cdgen.train.data.tokenizer import for_transformers
from cdgen.train.data.training_data import TrainingData
from cdgen.train.validation import validation_losses

EXPORT_DTYPE = torch.bfloat16
_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# {recipe.name}: a GOOD/BAD pair of small {kind}

Two checkpoints of one training run, for demonstrations and tests of contrastive decoding on a
machine without a GPU. The models know the texts named below and nothing else; they are of no use
for anything but that.

| | good | bad |
|---|---|---|
| chosen as | the least held-out loss | the last one {recipe.bad_gap:g} nats/token behind |
| step, of {training.steps:,} | {good.step:,} | {bad.step:,} |
| tokens seen | {good_seen:.1f} M | {bad_seen:.1f} M |

## Held-out loss, nats per token
On documents, or whole books, that training never saw, with the weights as exported
({dtype}), computed in float32.

| source | good | bad |
|---|---|---|
{losses}

## Data
| source | file | licence | a document is | cleaned | copies per epoch | held out | prompts |
|---|---|---|---|---|---|---|---|
{data}

## Architecture
{architecture}
- {tokenizer}, {recipe.vocab_size:,} tokens; `<s>` begins every text

## Training
- {optimizer}, learning rate {training.learning_rate:g}, {training.warmup_steps} warm-up steps, \
then a cosine to zero at the last step; weight decay {training.weight_decay:g}, \
gradients {clipped}, seed {recipe.seed}
- {tokens:,} tokens a step: documents end to end in blocks of {recipe.block_size}, no mask between

```
cdgen train --config recipes/{recipe.name}.yaml --data DATA --out out/{recipe.name}
```
trains the pair again; `DATA` is the folder with the files above. Other hardware rounds
differently: expect losses close to these, not the same bits.
"""
_TOKENIZERS = {
    "byte-level": "byte-level BPE",
    "sentencepiece": "SentencePiece-style BPE",
}


@dataclass(frozen=True)
class Exported:
    step: int
    parameters: int
    losses: dict[str, float]  # per source and "all", nats/token, of the exported weights


def export_pair(recipe: Recipe, corpus: TrainingData, out: Path) -> None:
    """Write out/pair/{good,bad} and out/pair/README.md from a finished run.

    Raises ModelError if no checkpoint is far enough behind GOOD to be BAD.
    """
    assert recipe.bad_gap is not None  # callers ask for a pair only if it has one
    good_step, bad_step = choose_pair(checkpoint_losses(out / "metrics.jsonl"), recipe.bad_gap)
    exported = {}
    for role, step in (("good", good_step), ("bad", bad_step)):
        folder = out / "pair" / role
        checkpoint = out / "checkpoints" / f"checkpoint-{step}"
        facts = export_checkpoint(checkpoint, folder)
        tokenizer = for_transformers(corpus.tokenizer, recipe.block_size, corpus.names)
        tokenizer.save_pretrained(folder)
        mark_complete(folder, facts)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        losses = validation_losses(model, corpus.validation)
        exported[role] = Exported(step, model.num_parameters(), losses)
    card = model_card(recipe, exported["good"], exported["bad"])
    (out / "pair" / "README.md").write_text(card, encoding="utf-8")


def export_checkpoint(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Copy a checkpoint and return the facts of its marker. Raises ModelError if it is not
    whole."""
    facts = require_whole(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=EXPORT_DTYPE)
    model.config.use_cache = True  # Trainer saves False because training does not use it
    model.save_pretrained(folder)
    return facts


def checkpoint_losses(metrics: Path) -> dict[int, float]:
    """Return the finite validation losses over all sources by step; the last line of a step
    counts."""
    losses = {}
    for line in metrics.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            losses[int(entry["step"])] = float(entry["validation"]["all"])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue  # cut short by a kill; the step was repeated, or has no checkpoint
    return {step: loss for step, loss in losses.items() if math.isfinite(loss)}


def choose_pair(losses: Mapping[int, float], gap: float) -> tuple[int, int]:
    """Return (GOOD's step, BAD's step): the least loss, and the last step before it that is `gap`
    nats above."""
    if not losses:
        raise ModelError("metrics.jsonl has no validation loss of a checkpoint: train again")
    good = min(losses, key=lambda step: (losses[step], step))
    bad = last_behind(losses, good, gap)
    if bad is None:
        raise ModelError(
            f"no checkpoint before step {good} (loss {losses[good]:.3f}) is {gap} nats/token "
            "above it: lower bad_gap in the recipe and run the same command again, or train into"
            " another --out with a lower checkpoint_every"
        )
    return good, bad


def last_behind(losses: Mapping[int, float], good: int, gap: float) -> int | None:
    """Return the last step before `good` whose loss is at least `gap` above its loss."""
    behind = (step for step in losses if step < good and losses[step] >= losses[good] + gap)
    return max(behind, default=None)


def model_card(recipe: Recipe, good: Exported, bad: Exported) -> str:
    training = recipe.training
    tokens = training.batch_blocks * recipe.block_size
    losses = "\n".join(
        f"| {source} | {good.losses[source]:.3f} | {bad.losses[source]:.3f} |"
        for source in good.losses
    )
    data = "\n".join(
        f"| {source.name} | `{source.path.name}` | {source.licence} | {source.split}"
        f" | {source.clean or 'no'} | {source.repeat} | {100 * source.validation:g} %"
        f" | {100 * source.prompts:g} % |"
        for source in recipe.sources
    )
    return _CARD.format(
        recipe=recipe,
        kind="models" if isinstance(recipe.model, Path) else "Llamas",
        tokenizer=_TOKENIZERS.get(str(recipe.tokenizer), f"the tokenizer of `{recipe.tokenizer}`"),
        architecture=_architecture(recipe, good.parameters),
        training=training,
        optimizer="Muon" if training.optimizer == "muon" else "AdamW",
        clipped=f"clipped at {training.max_grad_norm:g}" if training.max_grad_norm else "as is",
        good=good,
        bad=bad,
        tokens=tokens,
        good_seen=good.step * tokens / 1e6,
        bad_seen=bad.step * tokens / 1e6,
        dtype=str(EXPORT_DTYPE).removeprefix("torch."),
        losses=losses,
        data=data,
    )


def _architecture(recipe: Recipe, parameters: int) -> str:
    shape, common = recipe.model, f"{parameters:,} parameters"
    if isinstance(shape, Path):
        return f"- `{shape}`, {common}, trained on blocks of {recipe.block_size}"
    tied = "tied" if shape.tie_word_embeddings else "untied"
    return (
        f"- Llama, {common}, {tied} embeddings, context {recipe.block_size}\n"
        f"- {shape.num_hidden_layers} layers of width {shape.hidden_size}, feed-forward"
        f" {shape.intermediate_size}, {shape.num_attention_heads} query and"
        f" {shape.num_key_value_heads} key/value heads"
    )
