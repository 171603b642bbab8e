"""The freshly initialised model of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from cdgen.errors import UsageError
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
            config, dtype=torch.float32, attn_implementation=recipe.training.attention
        )
    except ValueError as error:  # for example an encoder-decoder
        first = str(error).split("\n")[0]
        raise UsageError(f"model: expected a causal language model: {first}") from error
    except ImportError as error:
        first = str(error).split("\n")[0]
        raise UsageError(
            f"attention: {recipe.training.attention} cannot run here: {first}"
        ) from error
    if not recipe.training.attention.startswith("flash"):  # they run on a GPU only
        _require_causal(model)
    return model


@torch.inference_mode()
def _require_causal(model: PreTrainedModel) -> None:
    """Raise UsageError if a later token changes an earlier prediction.

    Encoders such as BERT have a causal class as well, and attend in both directions by default.
    """
    training, last = model.training, model.config.vocab_size - 1
    tokens = torch.tensor([[last, last, last], [last, last, last - 1]])
    logits = model.eval()(input_ids=tokens, use_cache=False).logits[:, :2]
    model.train(training)
    if not torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4):
        raise UsageError(
            f"model: {model.config.model_type} sees the tokens that it is to predict: an encoder;"
            " a config with is_decoder true may do"
        )


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
    too few positions."""
    if not (path / "config.json").is_file() and not path.is_file():
        raise UsageError(f"model: {path}: expected a config.json or its folder, found neither")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).split("\n")[0]
        raise UsageError(f"model: {path} is no config of transformers: {first}") from error
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions < block_size:
        raise UsageError(
            f"model: {path}: {positions} positions, but block_size is {block_size}; lower it"
        )
    return config
