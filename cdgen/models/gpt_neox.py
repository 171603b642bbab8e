"""GPT-NeoX (Pythia): heads that are rotated in part, attention and MLP in parallel."""

from __future__ import annotations

from typing import Any

import torch

from cdgen.models.config import GELU_KINDS, DecoderConfig
from cdgen.models.layers import GeluMlp, Layer
from cdgen.models.linear import Linear, linear
from cdgen.models.weights import CheckpointTensors, Weights

MODEL_TYPES = ("gpt_neox",)
_ROPE_TYPES = ("default", "linear")
# Causal masks and angles, which old checkpoints contain.
_NO_WEIGHTS = (".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq")


def lean_config(config: dict[str, Any], capacity: int) -> DecoderConfig | None:
    """Return the shape, or None if the model needs something that the lean decoder lacks."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    activation, bias = config.get("hidden_act", "gelu"), config.get("attention_bias", True)
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    rope.setdefault("rope_theta", config.get("rotary_emb_base", 10000.0))
    rope.setdefault("rope_type", rope.get("type", "default"))
    partial = rope.setdefault("partial_rotary_factor", config.get("rotary_pct", 0.25))
    rotary_dim = int(width // heads * partial)
    if rope["rope_type"] not in _ROPE_TYPES or activation not in GELU_KINDS:
        return None
    if width % heads or rotary_dim % 2 or not 0 < partial <= 1:
        return None
    return DecoderConfig(
        architecture="gpt_neox",
        num_hidden_layers=config["num_hidden_layers"],
        hidden_size=width,
        intermediate_size=config["intermediate_size"],
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        vocab_size=config["vocab_size"],
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        norm_eps=config.get("layer_norm_eps", 1e-5),
        activation=GELU_KINDS[activation],
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=True,
        rope=rope,
        rotary_dim=rotary_dim,
        parallel_residual=config.get("use_parallel_residual", True),
    )


def take_weights(c: DecoderConfig, tensors: CheckpointTensors) -> Weights:
    """Take the weights. Raises ModelError unless the checkpoint holds exactly those of `c`."""
    embedding, head = tensors.embedding_and_head("gpt_neox.embed_in.weight", "embed_out.weight", c)
    layers = [
        _layer(c, tensors, f"gpt_neox.layers.{index}") for index in range(c.num_hidden_layers)
    ]
    norm = tensors.layer_norm("gpt_neox.final_layer_norm", c.hidden_size, c.norm_eps)
    tensors.expect_empty("GPT-NeoX", _NO_WEIGHTS)
    return Weights(embedding, None, layers, norm, head)


def _layer(c: DecoderConfig, tensors: CheckpointTensors, block: str) -> Layer:
    assert c.activation != "silu"
    attention, mlp = f"{block}.attention", f"{block}.mlp"
    return Layer(
        attention_norm=tensors.layer_norm(f"{block}.input_layernorm", c.hidden_size, c.norm_eps),
        qkv=_qkv(c, tensors, f"{attention}.query_key_value"),
        query_norm=None,
        key_norm=None,
        out=tensors.linear({f"{attention}.dense": c.hidden_size}, c.hidden_size, c.out_bias),
        mlp_norm=tensors.layer_norm(f"{block}.post_attention_layernorm", c.hidden_size, c.norm_eps),
        mlp=GeluMlp(
            tensors.linear(
                {f"{mlp}.dense_h_to_4h": c.intermediate_size}, c.hidden_size, c.mlp_bias
            ),
            tensors.linear(
                {f"{mlp}.dense_4h_to_h": c.hidden_size}, c.intermediate_size, c.mlp_bias
            ),
            c.activation,
        ),
        parallel_residual=c.parallel_residual,
    )


def _qkv(c: DecoderConfig, tensors: CheckpointTensors, name: str) -> Linear:
    order = qkv_order(c).to(tensors.device)
    weight = tensors.take(f"{name}.weight", 3 * c.hidden_size, c.hidden_size).index_select(
        -2, order
    )
    bias = (
        tensors.take(f"{name}.bias", 3 * c.hidden_size).index_select(-1, order)
        if c.qkv_bias
        else None
    )
    return linear(weight, bias)


def qkv_order(c: DecoderConfig) -> torch.Tensor:  # [3 D] int64: rows of the fused weight
    """Return the order that turns the fused weight, which holds query, key and value head by head,
    into all queries, all keys, all values.

    The dimensions of query and key heads are reordered as well: the checkpoint rotates dimension i
    with i + rotary_dim / 2, the kernel i with i + head_dim / 2. Scores are sums over a head's
    dimensions, so their order does not matter.
    """
    rows = torch.arange(3 * c.hidden_size).view(c.num_attention_heads, 3, c.head_dim)
    turned, half = c.rotary_dim // 2, c.head_dim // 2
    low, high, kept = torch.arange(c.head_dim).split([turned, turned, c.head_dim - c.rotary_dim])
    head = torch.cat([low, kept[: half - turned], high, kept[half - turned :]])
    query, key, value = rows.unbind(1)
    return torch.cat([query[:, head], key[:, head], value]).flatten()
