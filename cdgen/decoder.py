"""Lean decoder of the Llama family: one token per row and step, over a static KV cache.

Covers Llama, Mistral, Qwen2, Qwen3 and SmolLM checkpoints. What a configuration asks for beyond
that (`lean_config` says what) runs through transformers instead: cdgen/generic_engine.py.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F

from cdgen.decoder_weights import DecoderConfig, DecoderWeights, Linear
from cdgen.errors import ModelError
from cdgen.kernels.decode_attention import AttentionDropout, decode_attention
from cdgen.kernels.decoder_ops import rms_norm, rotary_to_cache, swiglu


def require_memory(shapes: list[DecoderConfig], slots: int, capacity: int) -> None:
    """Raises ModelError where the KV caches of all models would not fit into the free memory."""
    needed = sum(
        8 * s.layers * slots * s.kv_heads * capacity * s.head_width  # keys and values, 4 bytes each
        for s in shapes
    )
    free = _available_bytes()
    if free is not None and needed > free:
        raise ModelError(
            f"the KV caches of {slots} slots x {capacity} tokens need {needed / 2**30:.1f} GiB,"
            f" {free / 2**30:.1f} GiB are free: give fewer --slots or --max-new-tokens"
        )


def _available_bytes() -> int | None:
    """What Linux can hand out without swapping, its file cache included; None elsewhere."""
    memory = Path("/proc/meminfo")
    if not memory.exists():
        return None
    lines = dict(line.split(":") for line in memory.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


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
        weights = DecoderWeights(config, tensors, slots)
        self.embedding = weights.take("model.embed_tokens.weight", config.vocab_size, config.width)
        self.layers = [weights.layer(i) for i in range(config.layers)]
        self.norm = weights.take("model.norm.weight", config.width)
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
