"""The sizes of an experiment that follow from the number of words of its text, where the recipe
leaves them out.

With W words of training text:

    vocab_size      3 sqrt(W), to the nearest power of two, from 512 to 32,768
    model           the largest shape of SHAPES whose layers have at most W parameters
    block_size      128 up to 300,000 words, 256 up to 5 million, 512 up to 50 million, then 1,024
    batch_blocks    W / 256 tokens, to the nearest power of two, 262,144 at most
    steps           EPOCHS readings of the text, with CHECKPOINTS checkpoints on the way
    learning_rate   0.5 / hidden_size, 0.001 at least; the first twentieth of the steps warms up
    bf16            from a hidden_size of 384, for which one wants a GPU
    max_new_tokens  400, or what the prompt leaves of the context
    num_sequences   as many per prompt as make a corpus of about the size of the text

They pass through the sizes that this project has tried: recipes/nano.yaml (1 M words), demo.yaml
(2 M) and tinybabylm-10m.yaml, and near those of Ulm et al. 2025 (100 M).
"""

from __future__ import annotations

import math
from typing import Any

from cdgen.experiment.text import TOKENS_PER_WORD, Text

SHAPES = ((2, 64), (3, 96), (4, 128), (5, 192), (6, 256), (8, 384), (10, 512), (12, 768))
_BLOCKS = ((300_000, 128), (5_000_000, 256), (50_000_000, 512))  # words up to which, block_size
EPOCHS = 8  # BabyLM's rules allow 10
CHECKPOINTS = 20
_HEAD = 32  # width of a head
_MOST_NEW_TOKENS = 400


def complete_base(base: dict[str, Any], words: int) -> dict[str, Any]:
    """Return the base run's recipe with the sizes that it leaves out."""
    sizes: dict[str, Any] = {
        "vocab_size": _power_of_two(3 * math.sqrt(words), 512, 32_768),
        "block_size": _block_size(words),
        "model": _model(words),
    }
    sizes |= base
    if isinstance(given := base.get("training", {}), dict):
        training = _training(words, _number(sizes["block_size"], 1024), sizes["model"]) | given
        training.setdefault("micro_batch_blocks", training["batch_blocks"])
        sizes["training"] = training
    return sizes


def complete_corpora(corpora: dict[str, Any], block_size: Any, text: Text) -> dict[str, Any]:
    """Return the section `corpora` with the sizes that it leaves out."""
    left = _number(block_size, 1024) - _number(corpora.get("prompt_tokens"), 20)
    new = _number(corpora.get("max_new_tokens"), max(1, min(_MOST_NEW_TOKENS, left)))
    rows = text.words * TOKENS_PER_WORD / (max(1, text.prompts) * new)
    return {"num_sequences": max(1, math.ceil(rows)), "max_new_tokens": new} | corpora


def layer_parameters(layers: int, width: int) -> int:
    """Return the parameters of the layers of a shape: 4 w^2 of attention and 8 w^2 of MLP each."""
    return 12 * layers * width * width


def _model(words: int) -> dict[str, Any]:
    fitting = [shape for shape in SHAPES if layer_parameters(*shape) <= words]
    layers, width = (fitting or SHAPES[:1])[-1]
    return {
        "hidden_size": width,
        "intermediate_size": round(8 / 3 * width / 16) * 16,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD,
        "num_key_value_heads": width // _HEAD,
    }


def _block_size(words: int) -> int:
    return next((block for most, block in _BLOCKS if words <= most), 1024)


def _training(words: int, block: int, model: Any) -> dict[str, Any]:
    width = _number(model.get("hidden_size"), 768) if isinstance(model, dict) else 768
    batch = max(1, _power_of_two(words / 256, 512, 262_144) // block)
    steps = math.ceil(EPOCHS * words * TOKENS_PER_WORD / (batch * block))
    every = max(1, math.ceil(steps / CHECKPOINTS))
    return {
        "steps": every * CHECKPOINTS,
        "batch_blocks": batch,
        "learning_rate": max(1e-3, round(0.5 / width, 4)),
        "warmup_steps": every,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "checkpoint_every": every,
        "bf16": width >= 384,
        "compile": False,
    }


def _number(value: Any, otherwise: int) -> int:
    """Return a size that is given; one that is no size is refused later, with all other fields."""
    return value if isinstance(value, int) and value > 0 else otherwise


def _power_of_two(number: float, least: int, most: int) -> int:
    """Return the power of two that is nearest on a logarithmic scale, within bounds."""
    nearest = 2 ** round(math.log2(max(1.0, number)))
    return int(min(most, max(least, nearest)))
