"""The shape of a lean decoder, read from config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cdgen.kernels.gelu import GeluKind

# transformers' names. Functions of one kind differ only in how they round in 16 bits.
GELU_KINDS: dict[str, GeluKind] = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_pytorch_tanh": "tanh",
}


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a model, with config.json's names. Models of equal shape can be stacked."""

    architecture: Literal["llama", "gpt2", "gpt_neox"]
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int  # inner size of the MLP
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool  # the head is the embedding
    norm_eps: float  # epsilon of every norm
    activation: Literal["silu", "tanh", "erf"]  # silu gates the MLP; the others are kinds of gelu
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    rope: dict[str, Any]  # rope_type, rope_theta and the parameters of the type
    rotary_dim: int  # dimensions of a head that are rotated; 0 if positions are learned
    qk_norm: bool = False  # RMS norm of every query and key head
    parallel_residual: bool = False  # attention and MLP read the same residual stream
    learned_positions: int = 0  # rows of the position table; 0 if positions are rotary

    @property
    def logits_width(self) -> int:
        """The columns of GOOD's logits on a GPU: V, rounded up so that every row starts at a
        multiple of 16 bytes or more and is read 16 bytes at a time. The columns after V are never
        drawn."""
        return -(-self.vocab_size // 16) * 16

    @property
    def query_size(self) -> int:
        """The numbers in the queries of one token: H * Dh."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """The numbers in the keys, and in the values, of one token: Hkv * Dh."""
        return self.num_key_value_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """The numbers in the matrices of all layers."""
        attention = 2 * self.hidden_size * (self.query_size + self.kv_size)
        matrices = 3 if self.activation == "silu" else 2  # with a gate or without
        mlp = matrices * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * (attention + mlp)
