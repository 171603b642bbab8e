"""The architectures that have a lean decoder. To add one, write a module like llama.py
(MODEL_TYPES, `lean_config`, `take_weights`) and list it here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

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
_LARGEST_HEAD_DIM = 256  # limit of the Triton kernels


def lean_config(config: dict[str, Any], capacity: int) -> DecoderConfig | None:
    """Return the shape of a model for contexts of up to `capacity` tokens, or None if it has no
    lean decoder."""
    read = _CONFIGS.get(str(config.get("model_type")))
    shape = read(config, capacity) if read else None
    if shape is None or shape.head_dim % 2 or shape.head_dim > _LARGEST_HEAD_DIM:
        return None
    return shape


def load_weights(
    config: DecoderConfig,
    models: Sequence[dict[str, torch.Tensor]],
    rows: int,  # of each model in a step
    device: torch.device,
    dtype: torch.dtype,
) -> Weights:
    """Take the weights of M models. Raises ModelError unless each holds exactly those of
    `config`."""
    tensors = CheckpointTensors(models, rows, device, dtype)
    return _WEIGHTS[config.architecture](config, tensors)
