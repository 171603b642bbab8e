"""Lean decoder of the Llama family: one token per row and step, over a static KV cache.

Covers Llama, Mistral, Qwen2, Qwen3 and SmolLM checkpoints. What a configuration asks for beyond
that (`lean_config` says what) runs through transformers instead: cdgen/generic_engine.py.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from cdgen.errors import ModelError
from cdgen.kernels.decode_attention import AttentionDropout, decode_attention
from cdgen.kernels.decoder_ops import rms_norm, rotary_to_cache, swiglu

_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a Llama-family model, from its config.json."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    vocab_size: int
    rms_eps: float
    rope: dict[str, Any]
    sliding_window: int | None

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> DecoderConfig:
        heads = config["num_attention_heads"]
        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
        rope.setdefault("rope_type", rope.get("type", "default"))
        windowed = config.get("use_sliding_window", config["model_type"] == "mistral")
        return cls(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or config["hidden_size"] // heads,
            vocab_size=config["vocab_size"],
            rms_eps=config.get("rms_norm_eps", 1e-6),
            rope=rope,
            sliding_window=config.get("sliding_window") if windowed else None,
        )


def lean_config(config: dict[str, Any], capacity: int) -> DecoderConfig | None:
    """The lean decoder's configuration for contexts up to `capacity` tokens, or None where the
    model needs something that this decoder does not compute."""
    if config.get("model_type") not in _MODEL_TYPES or config.get("hidden_act", "silu") != "silu":
        return None
    shape = DecoderConfig.from_json(config)
    partial = shape.rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if shape.rope["rope_type"] not in _ROPE_TYPES or partial != 1.0:
        return None
    if shape.sliding_window is not None and shape.sliding_window < capacity:
        return None
    return shape


def require_memory(shapes: list[DecoderConfig], slots: int, capacity: int) -> None:
    """Raises ModelError where the KV caches of all models would not fit into the free memory."""
    needed = sum(
        8 * s.layers * slots * s.kv_heads * capacity * s.head_width  # keys and values, 4 bytes each
        for s in shapes
    )
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        raise ModelError(
            f"the KV caches of {slots} slots x {capacity} tokens need {needed / 2**30:.1f} GiB,"
            f" {free / 2**30:.1f} GiB are free: give fewer --slots or --max-new-tokens"
        )


def rotary_tables(
    config: DecoderConfig, capacity: int
) -> tuple[torch.Tensor, torch.Tensor]:  # cos, sin: [capacity, head_width / 2] float32
    """Angles position / theta^(2 i / D), with the linear and Llama 3 scalings of long contexts."""
    rope, width = config.rope, config.head_width
    frequency = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    if rope["rope_type"] == "linear":
        frequency = frequency / rope["factor"]
    if rope["rope_type"] == "llama3":
        # Slow components are slowed by `factor`, fast ones kept, those between interpolated.
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = (1 - blend) * frequency / rope["factor"] + blend * frequency
    angles = torch.arange(capacity).float()[:, None] * frequency
    return angles.cos(), angles.sin()


class Linear:
    """x @ weight.T + bias with the weight laid out once for oneDNN's matrix product.

    At 64 rows this runs at 1.7 to 2.7 times the speed of F.linear, which lays the weight out again
    at every call (docs/decisions.md, 2026-11-22).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> None:
        self.bias = bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


@dataclass(frozen=True)
class Layer:
    """Weights of one block: attention, then the gated MLP."""

    attention_norm: torch.Tensor  # [D]
    qkv: Linear  # [(H + 2 Hkv) * Dh, D]
    query_norm: torch.Tensor | None  # [Dh]
    key_norm: torch.Tensor | None  # [Dh]
    out: Linear  # [D, H * Dh]
    mlp_norm: torch.Tensor  # [D]
    gate_up: Linear  # [2 F, D]
    down: Linear  # [D, F]


class Decoder:
    """`slots` rows in lockstep; each has its own position in its own cache of `capacity` tokens.

    Shapes never change and no op mixes rows, so a row's result depends on its own tokens alone.
    """

    def __init__(
        self,
        config: DecoderConfig,
        tensors: dict[str, torch.Tensor],
        slots: int,
        capacity: int,
    ) -> None:
        self.config, self.slots = config, slots
        self.dropout, self.seed = 0.0, 0
        weights = _Weights(tensors, slots)
        self.embedding = weights.take("model.embed_tokens.weight")  # [V, D]
        self.layers = [weights.layer(i) for i in range(config.layers)]
        self.norm = weights.take("model.norm.weight")
        self.head_weight = weights.head(self.embedding)  # [V, D]
        weights.expect_empty()
        self.cos, self.sin = rotary_tables(config, capacity)
        cache = (config.layers, slots, config.kv_heads, capacity, config.head_width)
        self.keys, self.values = torch.zeros(cache), torch.zeros(cache)
        self._head: Linear | None = None

    def drop_attention(self, rate: float, seed: int) -> None:
        """Makes this a BAD: attention weights are dropped at `rate` in (0, 1), seeded by `seed`."""
        self.dropout, self.seed = rate, seed

    def forward(
        self,
        tokens: torch.Tensor,  # [B] int64
        positions: torch.Tensor,  # [B] int64: where in its sequence each token stands
        sequence_ids: torch.Tensor,  # [B] int64, for dropout's noise
    ) -> torch.Tensor:  # [B, D]: the normed hidden state, ready for the head
        c = self.config
        lengths, scale = positions + 1, c.head_width**-0.5
        x = F.embedding(tokens, self.embedding)
        delta = None
        for i, layer in enumerate(self.layers):
            keys, values = self.keys[i], self.values[i]
            qkv = layer.qkv(rms_norm(x, delta, layer.attention_norm, c.rms_eps))
            query = rotary_to_cache(
                qkv, self.cos, self.sin, positions, keys, values,
                query_norm=layer.query_norm, key_norm=layer.key_norm, eps=c.rms_eps,
            )  # fmt: skip
            dropout = (
                AttentionDropout(self.dropout, self.seed, i, sequence_ids) if self.dropout else None
            )
            attended = decode_attention(query, keys, values, lengths, scale=scale, dropout=dropout)
            delta = layer.out(attended.flatten(1))
            hidden = layer.gate_up(rms_norm(x, delta, layer.mlp_norm, c.rms_eps))
            delta = layer.down(swiglu(hidden))
        return rms_norm(x, delta, self.norm, c.rms_eps)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:  # [B, D] -> [B, V]
        if self._head is None:  # BAD's head is never laid out where only plausible tokens need it
            self._head = Linear(self.head_weight, None, self.slots)
        return self._head(hidden)


class _Weights:
    """Takes tensors out of a checkpoint by name, so that what is missing or left over is named."""

    def __init__(self, tensors: dict[str, torch.Tensor], rows: int) -> None:
        self.tensors, self.rows = dict(tensors), rows

    def take(self, name: str) -> torch.Tensor:
        try:
            return self.tensors.pop(name)
        except KeyError:
            raise ModelError(f"the checkpoint has no tensor {name}") from None

    def linear(self, *prefixes: str) -> Linear:
        """One product for several weights that share their input."""
        weight = torch.cat([self.take(f"{p}.weight") for p in prefixes])
        biased = f"{prefixes[0]}.bias" in self.tensors
        bias = torch.cat([self.take(f"{p}.bias") for p in prefixes]) if biased else None
        return Linear(weight, bias, self.rows)

    def layer(self, index: int) -> Layer:
        attention, mlp = f"model.layers.{index}.self_attn", f"model.layers.{index}.mlp"
        return Layer(
            attention_norm=self.take(f"model.layers.{index}.input_layernorm.weight"),
            qkv=self.linear(*(f"{attention}.{n}_proj" for n in "qkv")),
            query_norm=self.tensors.pop(f"{attention}.q_norm.weight", None),
            key_norm=self.tensors.pop(f"{attention}.k_norm.weight", None),
            out=self.linear(f"{attention}.o_proj"),
            mlp_norm=self.take(f"model.layers.{index}.post_attention_layernorm.weight"),
            gate_up=self.linear(f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            down=self.linear(f"{mlp}.down_proj"),
        )

    def head(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.tensors.pop("lm_head.weight", embedding)

    def expect_empty(self) -> None:
        """Raises ModelError on weights that this decoder would ignore."""
        left = [n for n in self.tensors if not n.endswith("rotary_emb.inv_freq")]
        if left:
            raise ModelError(f"the checkpoint has tensors that a Llama does not: {left[:5]}")
