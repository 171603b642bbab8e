"""The model card of an exported pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from cdgen.shown_text import as_code, in_markdown
from cdgen.train.config import Recipe

EXPORT_DTYPE = torch.bfloat16
_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# {name}: a GOOD/BAD pair of small {kind}

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
class ExportedModel:
    step: int
    parameters: int
    losses: dict[str, float]  # per source and "all", nats/token, of the exported weights


def model_card(recipe: Recipe, good: ExportedModel, bad: ExportedModel) -> str:
    training = recipe.training
    tokens = training.batch_blocks * recipe.block_size
    losses = "\n".join(
        f"| {in_markdown(source)} | {good.losses[source]:.3f} | {bad.losses[source]:.3f} |"
        for source in good.losses
    )
    data = "\n".join(
        f"| {in_markdown(source.name)} | {as_code(source.path.name)}"
        f" | {in_markdown(source.licence)} | {source.split}"
        f" | {source.clean or 'no'} | {source.repeat} | {100 * source.validation:g} %"
        f" | {100 * source.prompts:g} % |"
        for source in recipe.sources
    )
    return _CARD.format(
        recipe=recipe,
        name=in_markdown(recipe.name),
        kind="models" if isinstance(recipe.model, Path) else "Llamas",
        tokenizer=_tokenizer(str(recipe.tokenizer)),
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


def _tokenizer(name: str) -> str:
    return _TOKENIZERS.get(name) or f"the tokenizer of {as_code(name)}"


def _architecture(recipe: Recipe, parameters: int) -> str:
    shape, common = recipe.model, f"{parameters:,} parameters"
    if isinstance(shape, Path):
        return f"- {as_code(str(shape))}, {common}, trained on blocks of {recipe.block_size}"
    tied = "tied" if shape.tie_word_embeddings else "untied"
    return (
        f"- Llama, {common}, {tied} embeddings, context {recipe.block_size}\n"
        f"- {shape.num_hidden_layers} layers of width {shape.hidden_size}, feed-forward"
        f" {shape.intermediate_size}, {shape.num_attention_heads} query and"
        f" {shape.num_key_value_heads} key/value heads"
    )
