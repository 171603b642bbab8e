"""The Llama family: Llama, Mistral, Qwen2, Qwen3, SmolLM."""

from __future__ import annotations

from typing import Any

from cdgen.models.config import DecoderConfig
from cdgen.models.layers import GatedMlp, Layer, RmsNorm
from cdgen.models.weights import CheckpointTensors, Weights

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_ROPE_TYPES = ("default", "linear", "llama3")


def lean_config(config: dict[str, Any], capacity: int) -> DecoderConfig | None:
    """Return the shape, or None if the model needs something that the lean decoder lacks."""
    kind, heads, width = config["model_type"], config["num_attention_heads"], config["hidden_size"]
    attention_bias = kind in ("llama", "qwen3") and config.get("attention_bias", False)
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope.setdefault("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if config.get("hidden_act", "silu") != "silu" or partial != 1.0:
        return None
    if rope["rope_type"] not in _ROPE_TYPES or _window(config, capacity) < capacity:
        return None
    head_dim = config.get("head_dim") or width // heads
    return DecoderConfig(
        architecture="llama",
        num_hidden_layers=config["num_hidden_layers"],
        hidden_size=width,
        intermediate_size=config["intermediate_size"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        vocab_size=config["vocab_size"],
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        activation="silu",
        qkv_bias=attention_bias or kind == "qwen2",
        out_bias=attention_bias,
        mlp_bias=kind == "llama" and config.get("mlp_bias", False),
        rope=rope,
        rotary_dim=head_dim,
        qk_norm=kind == "qwen3",
    )


def _window(config: dict[str, Any], capacity: int) -> int:
    """Return the number of tokens that a position attends to, `capacity` if it is not limited."""
    windowed = config.get("use_sliding_window", config["model_type"] == "mistral")
    window = config.get("sliding_window") if windowed else None
    return capacity if window is None else window


def take_weights(c: DecoderConfig, tensors: CheckpointTensors) -> Weights:
    """Take the weights. Raises ModelError unless the checkpoint holds exactly those of `c`."""
    embedding, head = tensors.embedding_and_head("model.embed_tokens.weight", "lm_head.weight", c)
    layers = [_layer(c, tensors, f"model.layers.{index}") for index in range(c.num_hidden_layers)]
    norm = RmsNorm(tensors.take("model.norm.weight", c.hidden_size), c.norm_eps)
    tensors.expect_empty("Llama", ("rotary_emb.inv_freq",))
    return Weights(embedding, None, layers, norm, head)


def _layer(c: DecoderConfig, tensors: CheckpointTensors, block: str) -> Layer:
    attention, mlp = f"{block}.self_attn", f"{block}.mlp"
    query, key = c.query_size, c.kv_size
    qkv = {f"{attention}.{n}_proj": rows for n, rows in zip("qkv", (query, key, key), strict=True)}
    norms = [
        tensors.take(f"{attention}.{n}_norm.weight", c.head_dim) if c.qk_norm else None
        for n in "qk"
    ]
    gate_up = {f"{mlp}.{n}_proj": c.intermediate_size for n in ("gate", "up")}
    return Layer(
        attention_norm=RmsNorm(
            tensors.take(f"{block}.input_layernorm.weight", c.hidden_size), c.norm_eps
        ),
        qkv=tensors.linear(qkv, c.hidden_size, c.qkv_bias),
        query_norm=norms[0],
        key_norm=norms[1],
        out=tensors.linear({f"{attention}.o_proj": c.hidden_size}, query, c.out_bias),
        mlp_norm=RmsNorm(
            tensors.take(f"{block}.post_attention_layernorm.weight", c.hidden_size), c.norm_eps
        ),
        mlp=GatedMlp(
            tensors.linear(gate_up, c.hidden_size, c.mlp_bias),
            tensors.linear({f"{mlp}.down_proj": c.hidden_size}, c.intermediate_size, c.mlp_bias),
        ),
        parallel_residual=False,
    )
