"""The shape of a lean decoder, as config.json gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cdgen.kernels.gelu import GeluKind

# By the names that transformers gives them. Those of one kind round otherwise in 16 bits, no more.
GELU_KINDS: dict[str, GeluKind] = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_pytorch_tanh": "tanh",
}


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a model, from its config.json. Models with equal ones can be stacked."""

    architecture: Literal["llama", "gpt2", "gpt_neox"]
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int  # of the MLP
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool  # the head is the embedding
    norm_eps: float  # of the norms
    activation: Literal["silu", "tanh", "erf"]  # of the MLP: silu gates it, the others are gelu's
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    rope: dict[str, Any]  # rope_type, rope_theta and what the type needs
    rotary_dim: int  # of a head, what turns with the position: 0 where positions are learned
    qk_norm: bool = False  # RMS norm of every query and key head
    parallel_residual: bool = False  # attention and MLP read the same residual stream
    learned_positions: int = 0  # rows of the table

    @property
    def query_size(self) -> int:
        """Numbers in the queries of one token: H * Dh."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Numbers in the keys, and in the values, of one token: Hkv * Dh."""
        return self.num_key_value_heads * self.head_dim
