"""Which models the lean decoder covers, and how each architecture's checkpoints are read."""

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
_WIDEST_HEAD = 256  # of the Triton kernels


def lean_config(config: dict[str, Any], capacity: int) -> DecoderConfig | None:
    """The lean decoder's configuration for contexts up to `capacity` tokens, or None where the
    model needs something that this decoder does not compute."""
    read = _CONFIGS.get(str(config.get("model_type")))
    shape = read(config, capacity) if read else None
    if shape is None or shape.head_dim % 2 or shape.head_dim > _WIDEST_HEAD:
        return None
    return shape


def load_weights(
    config: DecoderConfig,
    models: Sequence[dict[str, torch.Tensor]],
    rows: int,  # of each model in a step
    device: torch.device,
    dtype: torch.dtype,
) -> Weights:
    """Raises ModelError unless every checkpoint holds what `config` asks for, and nothing else."""
    tensors = CheckpointTensors(models, rows, device, dtype)
    return _WEIGHTS[config.architecture](config, tensors)
