"""What the stages of an experiment take: tokens, bytes on disk, seconds. All are estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cdgen.corpus.space import corpus_bytes
from cdgen.experiment.layout import Layout
from cdgen.experiment.recipe import RunRecipe
from cdgen.experiment.stages import Stage
from cdgen.experiment.tasks import PERPLEXITY, bytes_of_task
from cdgen.experiment.text import TOKENS_PER_WORD, Text
from cdgen.train.config import ModelShape, Recipe

# Times over that a corpus may be read: repeated text teaches less after that (Muennighoff et al.
# 2023).
MANY_READINGS = 4

_TEXT_BYTES = 4  # of a token in plain text
# Of a token that is scored, in the files of other tasks: a dozen fields stand beside two sentences
# that begin alike. blimp_filtered with a vocabulary of 4,096: 20.0, supplement_filtered: 12.0.
_ITEM_BYTES = 20
_PREDICTION_BYTES = 12  # of a token that is scored, in what `cdgen eval` writes
_CHECKPOINT_BYTES = 12  # of a parameter: fp32, and AdamW's two moments
_EXPORT_BYTES = 2  # of a parameter in bf16


@dataclass(frozen=True)
class Rates:
    """Tokens per second, and the seconds that a process takes to begin."""

    training: float  # of the base model
    generation: float | None  # new tokens; None if only transformers can run the model
    evaluation: float
    start: float
    machine: str


@dataclass(frozen=True)
class Cost:
    tokens: int
    bytes: int


def parameters(recipe: Recipe) -> int | None:
    """Return the parameters of a recipe's Llama; None if it names a config file."""
    shape = recipe.model
    if not isinstance(shape, ModelShape):
        return None
    width, inner = shape.hidden_size, shape.intermediate_size
    shared = shape.num_key_value_heads / shape.num_attention_heads
    layer = width * width * (2 + 2 * shared) + 3 * width * inner + 2 * width
    tables = recipe.vocab_size * width * (1 if shape.tie_word_embeddings else 2)
    return round(tables + shape.num_hidden_layers * layer + width)


def read_tokens(recipe: Recipe) -> int:
    """Return the tokens that training reads."""
    return recipe.total_steps * recipe.training.batch_blocks * recipe.block_size


def corpus_size(recipe: RunRecipe, text: Text) -> tuple[int, int]:
    """Return the rows of a corpus, and the most tokens that one can have, its prompt included."""
    shared = recipe.corpora
    return text.prompts * shared.num_sequences, shared.prompt_tokens + shared.max_new_tokens


def times_read(recipe: RunRecipe, ratio: float, text: Text) -> float:
    """Return how often a student reads its corpus, at least."""
    share = recipe.mixture.trained(ratio)
    base = recipe.base
    steps = base.total_steps
    if recipe.mixture.mode == "add":
        steps = math.ceil(steps / (1 - share))
    read = steps * base.training.batch_blocks * base.block_size * share
    return read / max(1, math.prod(corpus_size(recipe, text)))


def cost_of(stage: Stage, recipe: RunRecipe, text: Text, task_tokens: int) -> Cost:
    """Return the tokens that a stage computes, and the bytes that it leaves."""
    if stage.recipe is not None:
        return _training_cost(stage.recipe, text)
    if stage.kind == "corpus":
        rows, row_tokens = corpus_size(recipe, text)
        return Cost(rows * row_tokens, corpus_bytes(rows, row_tokens))
    if stage.kind == "eval":
        base = recipe.base.training
        kept = 1 if recipe.evaluation.checkpoint == "last" else base.steps // base.checkpoint_every
        return Cost(kept * task_tokens, kept * task_tokens * _PREDICTION_BYTES)
    return Cost(0, 0)


def _training_cost(recipe: Recipe, text: Text) -> Cost:
    size, training = parameters(recipe) or 0, recipe.training
    checkpoints = recipe.total_steps // training.checkpoint_every
    token_files = round(text.words * TOKENS_PER_WORD * 4)
    weights = size * (checkpoints * _CHECKPOINT_BYTES + _EXPORT_BYTES)
    return Cost(read_tokens(recipe), weights + token_files)


def seconds_of(stage: Stage, cost: Cost, base: Recipe, rates: Rates) -> float | None:
    """Return the seconds that a stage takes, or None if no rate is known. A smaller model is taken
    to be faster in proportion to its parameters."""
    if stage.recipe is not None:
        sizes = (parameters(stage.recipe), parameters(base))
        relative = sizes[0] / sizes[1] if sizes[0] and sizes[1] else 1.0
        return rates.start + cost.tokens / rates.training * relative
    if stage.kind == "corpus":
        return rates.start + cost.tokens / rates.generation if rates.generation else None
    work = cost.tokens / rates.evaluation if stage.kind == "eval" else 0.0
    return rates.start * (stage.action is None) + work


def task_tokens(recipe: RunRecipe, data: Path, layout: Layout) -> int:
    """Return about how many tokens a checkpoint is judged on, by the size of the tasks' files."""
    wanted = recipe.evaluation
    sizes = {task: bytes_of_task(task, wanted, data, layout) for task in wanted.tasks}
    return sum(
        size // (_TEXT_BYTES if task == PERPLEXITY else _ITEM_BYTES) for task, size in sizes.items()
    )
