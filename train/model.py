"""The freshly initialised model of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from cdgen.checkpoints import pretrained
from cdgen.checkpoints.causality import sees_the_future
from cdgen.checkpoints.checkpoint import read_json
from cdgen.checkpoints.config_checks import require_known_code, require_plain_weights
from cdgen.errors import ModelError, UsageError
from cdgen.train.data.tokenizer import SpecialIds

if TYPE_CHECKING:
    from cdgen.train.config import Recipe


def new_model(recipe: Recipe, specials: SpecialIds) -> PreTrainedModel:
    """Return a model with seeded random weights in float32. Raises UsageError for a config that
    does not describe a causal model."""
    config = model_config(recipe, specials)
    torch.manual_seed(recipe.seed)
    try:
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=torch.float32,
            attn_implementation=recipe.training.attention,
            trust_remote_code=False,
        )
    except ValueError as error:  # for example an encoder-decoder
        first = str(error).split("\n")[0]
        raise UsageError(f"model: expected a causal language model: {first}") from error
    except ImportError as error:
        first = str(error).split("\n")[0]
        raise UsageError(
            f"attention: {recipe.training.attention} cannot run here: {first}"
        ) from error
    on_any_device = not recipe.training.attention.startswith("flash")  # which runs on a GPU only
    if on_any_device and sees_the_future(model):
        raise UsageError(
            f"model: {model.config.model_type} sees the tokens that it is to predict: an encoder;"
            " a config with is_decoder true may do"
        )
    return model


def model_config(recipe: Recipe, specials: SpecialIds) -> PreTrainedConfig:
    """Return the config of the recipe's shape, with vocabulary and special tokens of its
    tokenizer."""
    tokens: dict[str, Any] = {
        "vocab_size": recipe.vocab_size,
        # The embedding of a padding token is not trained, so text must not contain that token.
        "pad_token_id": None if specials.pad in (specials.bos, specials.eos) else specials.pad,
        "bos_token_id": specials.bos,
        "eos_token_id": specials.eos,
    }
    if isinstance(recipe.model, Path):
        config = read_config(recipe.model, recipe.block_size)
        for name, value in tokens.items():
            setattr(config, name, value)
        return config
    shape = recipe.model.model_dump()
    return LlamaConfig(max_position_embeddings=recipe.block_size, **tokens, **shape)


def read_config(path: Path, block_size: int) -> PreTrainedConfig:
    """Read a config.json, or the one in a folder. Raises UsageError if there is none, or if it has
    too few positions; ModelError if it needs code of its own or weights that are quantized."""
    file = path if path.is_file() else path / "config.json"
    if not file.is_file():
        raise UsageError(f"model: {path}: expected a config.json or its folder, found neither")
    with _usable(path):
        fields = read_json(file)
    require_known_code(file, fields)
    require_plain_weights(file, fields)
    with _usable(path):
        config = pretrained.read_config(path)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions < block_size:
        raise UsageError(
            f"model: {path}: {positions} positions, but block_size is {block_size}; lower it"
        )
    return config


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Turn a ModelError about a config into a UsageError about the recipe."""
    try:
        yield
    except ModelError as error:
        raise UsageError(f"model: {path} is no config of transformers: {error}") from error
