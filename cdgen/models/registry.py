"""The architectures that have a lean decoder. To add one, write a module like llama.py
(MODEL_TYPES, `lean_config`, `take_weights`) and list it here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cdgen.errors import ModelError, one_line
from cdgen.models import gpt2, gpt_neox, llama
from cdgen.models.config import DecoderConfig
from cdgen.models.weights import CheckpointTensors, Weights

__all__ = ["DecoderConfig", "lean_config", "load_weights"]

_CONFIGS = {
    model_type: module.lean_config
    for module in (llama, gpt2, gpt_neox)
    for model_type in module.MODEL_TYPES
}
_WEIGHTS = {
    "llama": llama.take_weights,
    "gpt2": gpt2.take_weights,
    "gpt_neox": gpt_neox.take_weights,
}
# What each type of rotary embedding is computed from (decoder.py).
_ROPE_NUMBERS = {
    "default": ("rope_theta",),
    "linear": ("rope_theta", "factor"),
    "llama3": (
        *("rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
        "original_max_position_embeddings",
    ),
}
_LARGEST_HEAD_DIM = 256  # limit of the Triton kernels


def lean_config(config: dict[str, Any], capacity: int) -> DecoderConfig | None:
    """Return the shape of a model for contexts of up to `capacity` tokens, or None if it has no
    lean decoder. Raises ModelError if its config.json lacks a size or has one that is none."""
    kind = str(config.get("model_type"))
    if (read := _CONFIGS.get(kind)) is None:
        return None
    try:
        shape = read(config, capacity)
        if shape is None:
            return None
        _require_sizes(shape)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise ModelError(
            f"config.json does not describe a {kind}: {type(error).__name__} {one_line(error, 100)}"
        ) from error
    return None if shape.head_dim % 2 or shape.head_dim > _LARGEST_HEAD_DIM else shape


def _require_sizes(shape: DecoderConfig) -> None:
    """Raise ValueError unless the sizes are positive integers and the other numbers are numbers."""
    for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "head_dim"):
        if type(size := getattr(shape, name)) is not int or size < 1:
            raise ValueError(f"{name}: expected 1 or more, got {size!r:.40}")
    if shape.num_attention_heads % shape.num_key_value_heads:
        raise ValueError(
            f"{shape.num_attention_heads} heads cannot share {shape.num_key_value_heads} KV heads"
        )
    numbers = {name: shape.rope[name] for name in _ROPE_NUMBERS[shape.rope["rope_type"]]}
    for name, number in {"norm_eps": shape.norm_eps, **numbers}.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
            raise ValueError(f"{name}: expected a number above 0, got {number!r:.40}")


def load_weights(
    config: DecoderConfig,
    models: Sequence[dict[str, torch.Tensor]],
    device: torch.device,
    dtype: torch.dtype,
) -> Weights:
    """Take the weights of M models. Raises ModelError unless each holds exactly those of
    `config`."""
    tensors = CheckpointTensors(models, device, dtype)
    return _WEIGHTS[config.architecture](config, tensors)
