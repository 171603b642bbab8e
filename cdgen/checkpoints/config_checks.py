"""What config.json alone tells of a checkpoint that cannot be used, before a weight is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdgen.errors import ModelError

# Under these keys a config.json states its context length; the last two in MPT and Whisper.
CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_target_positions",
)

# All limits are far above any real model and far below what would exhaust memory or overflow a byte
# count.
_SIZE_LIMITS = {
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 1 << 12),
    **dict.fromkeys(("num_attention_heads", "n_head"), 1 << 16),
    **dict.fromkeys(("hidden_size", "n_embd"), 1 << 20),
    "vocab_size": 1 << 24,
    **dict.fromkeys(CONTEXT_KEYS, 1 << 27),
}
# Sizes that some models state as a list, or as 0, and counts of modules under whatever name: each
# is made before a weight is read.
_LARGEST = {
    **_SIZE_LIMITS,
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_model", "head_dim"), 1 << 24),
    **dict.fromkeys(("num_key_value_heads", "n_heads", "num_heads"), 1 << 16),
}
_MODULES, _MOST_MODULES = re.compile(r"(layers?|blocks|experts|depth)$"), 1 << 12
# Keys of config.json: of today, of older compressed-tensors, of MLX. Files: of AutoGPTQ, ModelOpt.
_QUANTIZED = ("quantization_config", "compression_config", "quantization")
_QUANTIZED_FILES = ("quantize_config.json", "hf_quant_config.json")


def require_loadable(folder: Path, config: dict[str, Any]) -> None:
    """Raise ModelError if the model needs code of its own, is quantized, has an encoder, or has
    sizes that no model has."""
    path = folder / "config.json"
    require_known_code(path, config)
    require_plain_weights(path, config)
    if config.get("is_encoder_decoder") is True:
        raise ModelError(
            f"{path}: {config.get('model_type')} is an encoder-decoder: give a causal language"
            " model, which has a decoder alone"
        )
    _check_sizes(path, config)


def require_known_code(path: Path, config: dict[str, Any]) -> None:
    """Raise ModelError if the model of a config needs code that lies beside it or on the hub. A
    language model that transformers has itself does not, whatever its auto_map says."""
    if not config.get("auto_map"):
        return
    from transformers import __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if str(config.get("model_type")) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"{path}: model_type {config.get('model_type')!r:.40} needs the code that its auto_map"
            f" names, and code of a checkpoint is never run: give a causal language model that"
            f" transformers {__version__} has itself"
        )


def require_plain_weights(path: Path, config: dict[str, Any]) -> None:
    """Raise ModelError if the weights of a config are quantized."""
    for part in _parts(config):
        for key in _QUANTIZED:
            if settings := part.get(key):
                method = settings.get("quant_method") if isinstance(settings, dict) else None
                raise _quantized(path, f"{key}: {method or 'unnamed'}")
    for name in _QUANTIZED_FILES:
        if path.with_name(name).is_file():
            raise _quantized(path, name)


def _quantized(path: Path, sign: str) -> ModelError:
    return ModelError(
        f"{path}: the weights are quantized ({sign}), which cdgen does not compute: give the model"
        " in bf16, fp16 or fp32, or dequantize it"
    )


def _parts(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a config and the configs inside it, such as text_config."""
    yield config
    for key, part in config.items():
        if key.endswith("_config") and isinstance(part, dict):
            yield part


def _check_sizes(path: Path, config: dict[str, Any]) -> None:
    if config.get("vocab_size") is None:
        raise ModelError(f"{path} has no vocab_size: a causal language model's config has one")
    for key, limit in _SIZE_LIMITS.items():
        value = config.get(key)
        if value is not None and not (type(value) is int and 1 <= value <= limit):
            raise ModelError(
                f"{path}: {key} must be an integer from 1 to {limit}, got {value!r:.40}"
            )
    for key, value in (pair for part in _parts(config) for pair in part.items()):
        most = _LARGEST.get(key, _MOST_MODULES if _MODULES.search(key) else None)
        if most is not None and type(value) is int and value > most:
            raise ModelError(f"{path}: {key} must be at most {most}, got {value!r:.40}")
