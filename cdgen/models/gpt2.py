"""GPT-2: learned positions, fused attention weights stored as [in, out]."""

from __future__ import annotations

from typing import Any

import torch

from cdgen.models.config import GELU_KINDS, DecoderConfig
from cdgen.models.layers import GeluMlp, Layer
from cdgen.models.linear import Linear, linear
from cdgen.models.weights import CheckpointTensors, Weights

MODEL_TYPES = ("gpt2",)
# Causal masks, which old checkpoints contain.
_NO_WEIGHTS = (".attn.bias", ".attn.masked_bias")


def lean_config(config: dict[str, Any], capacity: int) -> DecoderConfig | None:
    """Return the shape, or None if the model needs something that the lean decoder lacks."""
    width, heads = config.get("n_embd", 768), config.get("n_head", 12)
    positions = config.get("n_positions", 1024)
    activation = config.get("activation_function", "gelu_new")
    other_scores = (
        config.get("scale_attn_by_inverse_layer_idx", False)
        or config.get("reorder_and_upcast_attn", False)
        or not config.get("scale_attn_weights", True)
    )
    if other_scores or config.get("add_cross_attention", False) or activation not in GELU_KINDS:
        return None
    if width % heads or positions < capacity:
        return None
    return DecoderConfig(
        architecture="gpt2",
        num_hidden_layers=config.get("n_layer", 12),
        hidden_size=width,
        intermediate_size=config.get("n_inner") or 4 * width,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        vocab_size=config["vocab_size"],
        tie_word_embeddings=config.get("tie_word_embeddings", True),
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        activation=GELU_KINDS[activation],
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        rope={"rope_type": "default", "rope_theta": 10000.0},  # of no width
        rotary_dim=0,
        learned_positions=positions,
    )


def with_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors under transformers' names. Checkpoints of the bare model lack a prefix."""
    if "wte.weight" not in tensors:
        return tensors
    return {n if n == "lm_head.weight" else f"transformer.{n}": t for n, t in tensors.items()}


def take_weights(c: DecoderConfig, tensors: CheckpointTensors) -> Weights:
    """Take the weights. Raises ModelError unless the checkpoint holds exactly those of `c`."""
    tensors.models = [with_prefix(model) for model in tensors.models]
    embedding, head = tensors.embedding_and_head("transformer.wte.weight", "lm_head.weight", c)
    positions = tensors.take("transformer.wpe.weight", c.learned_positions, c.hidden_size)
    layers = [_layer(c, tensors, f"transformer.h.{index}") for index in range(c.num_hidden_layers)]
    norm = tensors.layer_norm("transformer.ln_f", c.hidden_size, c.norm_eps)
    tensors.expect_empty("GPT-2", _NO_WEIGHTS)
    return Weights(embedding, positions, layers, norm, head)


def _layer(c: DecoderConfig, tensors: CheckpointTensors, block: str) -> Layer:
    assert c.activation != "silu"
    return Layer(
        attention_norm=tensors.layer_norm(f"{block}.ln_1", c.hidden_size, c.norm_eps),
        qkv=_conv1d(tensors, f"{block}.attn.c_attn", c.hidden_size, 3 * c.hidden_size),
        query_norm=None,
        key_norm=None,
        out=_conv1d(tensors, f"{block}.attn.c_proj", c.hidden_size, c.hidden_size),
        mlp_norm=tensors.layer_norm(f"{block}.ln_2", c.hidden_size, c.norm_eps),
        mlp=GeluMlp(
            _conv1d(tensors, f"{block}.mlp.c_fc", c.hidden_size, c.intermediate_size),
            _conv1d(tensors, f"{block}.mlp.c_proj", c.intermediate_size, c.hidden_size),
            c.activation,
        ),
        parallel_residual=False,
    )


def _conv1d(tensors: CheckpointTensors, name: str, inputs: int, outputs: int) -> Linear:
    weight = tensors.take(f"{name}.weight", inputs, outputs)
    return linear(weight.mT, tensors.take(f"{name}.bias", outputs))
