"""What a Llama-family checkpoint must hold for the lean decoder, checked name by name and shape by
shape: the kernels are handed addresses and check nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cdgen.errors import ModelError

_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a Llama-family model, from its config.json."""

    layers: int
    width: int
    inner_width: int  # of the MLP
    heads: int
    kv_heads: int
    head_width: int
    vocab_size: int
    tied: bool  # the head is the embedding
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    head_norms: bool  # RMS norm of every query and key head
    rms_eps: float
    rope: dict[str, Any]
    sliding_window: int | None

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> DecoderConfig:
        kind, heads = config["model_type"], config["num_attention_heads"]
        attention_bias = kind in ("llama", "qwen3") and config.get("attention_bias", False)
        rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
        rope.setdefault("rope_type", rope.get("type", "default"))
        windowed = config.get("use_sliding_window", kind == "mistral")
        return cls(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            inner_width=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or config["hidden_size"] // heads,
            vocab_size=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
            qkv_bias=attention_bias or kind == "qwen2",
            out_bias=attention_bias,
            mlp_bias=kind == "llama" and config.get("mlp_bias", False),
            head_norms=kind == "qwen3",
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


class DecoderWeights:
    """Takes tensors out of a checkpoint by name and shape, so that what is missing, left over or
    of another shape is named: the kernels are handed addresses and check nothing."""

    def __init__(self, config: DecoderConfig, tensors: dict[str, torch.Tensor], rows: int) -> None:
        self.config, self.tensors, self.rows = config, dict(tensors), rows

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """Raises ModelError unless it is there in the shape that config.json gives it."""
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            raise ModelError(f"the checkpoint has no tensor {name}, which its config.json asks for")
        if tensor.shape != shape:
            raise ModelError(
                f"the checkpoint has {name} as {list(tensor.shape)}, its config.json asks for"
                f" {list(shape)}: one of them is another model's"
            )
        return tensor

    def linear(self, outputs: dict[str, int], inputs: int, biased: bool) -> Linear:
        """One product for several weights that share their input; `outputs`: rows of each."""
        weight = [self.take(f"{name}.weight", rows, inputs) for name, rows in outputs.items()]
        bias = [self.take(f"{name}.bias", rows) for name, rows in outputs.items() if biased]
        return Linear(torch.cat(weight), torch.cat(bias) if biased else None, self.rows)

    def layer(self, index: int) -> Layer:
        c, block = self.config, f"model.layers.{index}"
        attention, mlp = f"{block}.self_attn", f"{block}.mlp"
        query, key = c.heads * c.head_width, c.kv_heads * c.head_width
        qkv = {
            f"{attention}.{n}_proj": rows for n, rows in zip("qkv", (query, key, key), strict=True)
        }
        norms = [
            self.take(f"{attention}.{n}_norm.weight", c.head_width) if c.head_norms else None
            for n in "qk"
        ]
        return Layer(
            attention_norm=self.take(f"{block}.input_layernorm.weight", c.width),
            qkv=self.linear(qkv, c.width, c.qkv_bias),
            query_norm=norms[0],
            key_norm=norms[1],
            out=self.linear({f"{attention}.o_proj": c.width}, query, c.out_bias),
            mlp_norm=self.take(f"{block}.post_attention_layernorm.weight", c.width),
            gate_up=self.linear(
                {f"{mlp}.{n}_proj": c.inner_width for n in ("gate", "up")}, c.width, c.mlp_bias
            ),
            down=self.linear({f"{mlp}.down_proj": c.width}, c.inner_width, c.mlp_bias),
        )

    def head(self, embedding: torch.Tensor) -> torch.Tensor:
        if self.config.tied:
            self.tensors.pop("lm_head.weight", None)  # some writers save the same tensor again
            return embedding
        return self.take("lm_head.weight", *embedding.shape)

    def expect_empty(self) -> None:
        """Raises ModelError on weights that this decoder would ignore."""
        left = [n for n in self.tensors if not n.endswith("rotary_emb.inv_freq")]
        if left:
            raise ModelError(f"the checkpoint has tensors that a Llama does not: {left[:5]}")
