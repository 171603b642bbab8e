"""The shape of the paper's models, for tests that count memory and time."""

from __future__ import annotations

from typing import Any

from cdgen.models.config import DecoderConfig


def paper_shape(**changes: Any) -> DecoderConfig:
    """Return the shape of 12 layers of width 768 and vocabulary 32000, with `changes` to its
    fields."""
    fields: dict[str, Any] = {
        "architecture": "llama",
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "head_dim": 64,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
        "norm_eps": 1e-6,
        "activation": "silu",
        "qkv_bias": False,
        "out_bias": False,
        "mlp_bias": False,
        "rope": {},
        "rotary_dim": 64,
    }
    return DecoderConfig(**(fields | changes))
