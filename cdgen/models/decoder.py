"""The lean decoder: one token per row and step over a static KV cache, on CPU and CUDA.

One forward pass serves the Llama family, GPT-2 and GPT-NeoX (registry.py lists the models; the
others run through transformers, engine/wave_engine.py). It serves one model, or several of one
shape: their rows are stacked, GOOD's before BAD's, so that each op is launched once for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cdgen.kernels.arguments import CPU_CACHES, CPU_DTYPES
from cdgen.kernels.decode_attention import AttentionDropout, decode_attention
from cdgen.kernels.dispatch import threads
from cdgen.kernels.embedding import embedding
from cdgen.kernels.recording import Recorded, cat, kept, next_layer
from cdgen.kernels.rotary_to_cache import rotary_to_cache
from cdgen.models.config import DecoderConfig
from cdgen.models.kv_cache import KvCache
from cdgen.models.linear import Linear, head_linear
from cdgen.models.registry import load_weights

_CPU = torch.device("cpu")


def rotary_tables(
    config: DecoderConfig, capacity: int
) -> tuple[torch.Tensor, torch.Tensor]:  # cos, sin: [capacity, Dh / 2] float32
    """Return the cosines and sines of position / theta^(2 i / rotary_dim), with the linear and
    Llama 3 scalings for long contexts.

    The pairs of a head beyond `rotary_dim` are rotated by 0, which leaves them unchanged.
    """
    rope, width = config.rope, config.rotary_dim
    frequency = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    if rope["rope_type"] == "linear":
        frequency = frequency / rope["factor"]
    if rope["rope_type"] == "llama3":
        # Slow components are divided by `factor`, fast ones kept, those in between interpolated.
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = (1 - blend) * frequency / rope["factor"] + blend * frequency
    frequency = F.pad(frequency, (0, (config.head_dim - width) // 2))
    angles = torch.arange(capacity).float()[:, None] * frequency
    return angles.cos(), angles.sin()


@dataclass(frozen=True)
class Dropout:
    """Attention dropout that makes a BAD of GOOD's weights."""

    rate: float  # in (0, 1)
    seed: int  # 64 bits, the run's


class Decoder:
    """`slots` rows of each model in lockstep, each with its own position in a cache of `capacity`
    tokens.

    Shapes never change and no op mixes rows, so the result of a row depends on its own tokens only.
    On the CPU it does not depend on the other models of a stack either.
    """

    def __init__(
        self,
        config: DecoderConfig,
        models: Sequence[dict[str, torch.Tensor]],  # M checkpoints of this shape
        slots: int,
        capacity: int,
        *,
        device: torch.device = _CPU,
        dtype: torch.dtype = torch.float32,  # of weights, and of what products read and write
        kv_dtype: torch.dtype | None = None,  # of the cache: dtype, or as `check_caches` lists
        dropout: Dropout | None = None,  # runs one model twice, the second time with dropout
        window: int | None = None,  # runs one model twice, the second time on the last tokens only
        exit_layers: int | None = None,  # of one model: its hidden state after so many layers too
    ) -> None:
        """Raise ModelError if a checkpoint does not hold the tensors that `config` implies."""
        kinds = sum(x is not None for x in (dropout, window, exit_layers))
        if kinds > 1 or (kinds and len(models) != 1):
            raise ValueError(
                "dropout, window, exit_layers: expected one of them and one model,"
                f" got {kinds} and {len(models)}"
            )
        if window is not None and not 0 < window <= capacity:
            raise ValueError(f"window: expected 1 to {capacity}, got {window}")
        if exit_layers is not None and not 0 < exit_layers < config.num_hidden_layers:
            most = config.num_hidden_layers - 1
            raise ValueError(f"exit_layers: expected 1 to {most}, got {exit_layers}")
        stored = kv_dtype or dtype
        if device.type == "cpu" and not (dtype in CPU_DTYPES and stored in CPU_CACHES):
            raise ValueError(f"dtype: expected one of a CPU, got {dtype} and cache {stored}")
        self.config, self.models, self.device = config, len(models), device
        self.dropout, self.window, self.exit_layers = dropout, window, exit_layers
        self.slots, self.capacity = slots, capacity
        # The model whose weights each block of `slots` rows uses.
        blocks = [0, 0] if dropout or window else list(range(len(models)))
        self.blocks = torch.tensor(blocks, device=device)
        self.rows = len(self.blocks) * slots
        weights = load_weights(config, models, device, dtype)
        self.layers, self.norm = weights.layers, weights.norm
        self.embedding = weights.embedding.view(-1, config.hidden_size)  # [M * V, D]
        self.position_table = weights.positions  # [M * learned positions, D]
        if weights.positions is not None:
            self.position_table = weights.positions.view(-1, config.hidden_size)
        self._head = weights.head.view(len(models), config.vocab_size, config.hidden_size)
        self._to_logits: dict[int, Linear] = {}
        self.cos, self.sin = (table.to(device) for table in rotary_tables(config, capacity))
        # GOOD's, and BAD's ring if it has a window; else one for all rows.
        sizes = [(slots, capacity), (slots, window)] if window else [(self.rows, capacity)]
        self.caches = [
            KvCache.of_zeros(config, rows, entries, stored, device) for rows, entries in sizes
        ]
        self._run_layers = Recorded(self._layers) if device.type == "cpu" else self._layers

    def forward(
        self,
        tokens: torch.Tensor,  # [B] int64, one per slot
        positions: torch.Tensor,  # [B] int64: of each token in its sequence
        sequence_ids: torch.Tensor,  # [B] int64, for dropout's noise
    ) -> torch.Tensor:  # [R, D], or [2 R, D] with `exit_layers`: GOOD's rows first
        """Return the normed hidden state, the input of the head.

        With `exit_layers` = N, the residual stream after the first N layers follows, under the same
        final norm (early exit: Li et al. 2023, arXiv 2210.15097; Chuang et al. 2024, 2309.03883).
        """
        return self._run_layers(*self._layer_inputs(tokens, positions, sequence_ids))

    def _layer_inputs(
        self, tokens: torch.Tensor, positions: torch.Tensor, sequence_ids: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        lengths = [positions + 1]  # entries of each cache to attend to
        if self.window:
            lengths.append(lengths[0].clamp(max=self.window))
        return self.embed(tokens, positions), positions, sequence_ids, *lengths

    def _layers(
        self,
        x: torch.Tensor,  # [R, D]: the residual stream, overwritten
        positions: torch.Tensor,  # [B] int64
        sequence_ids: torch.Tensor,  # [B] int64
        *lengths: torch.Tensor,  # [B] int64: entries of each cache to attend to
    ) -> torch.Tensor:  # [R, D] | [2 R, D], as `forward` returns it
        delta = early = None
        for i, layer in enumerate(self.layers):
            next_layer()
            normed = layer.attention_norm(x, delta)  # adds what layer i - 1 left to add
            if i == self.exit_layers:
                early = kept(self.norm(x, None))
            dropout = None
            if d := self.dropout:
                dropout = AttentionDropout(d.rate, d.seed, i, sequence_ids, self.slots)
            shares = layer.qkv(normed).chunk(len(self.caches))
            attention_outs = [
                self._attend(i, own, positions, cache, length, dropout)
                for own, cache, length in zip(shares, self.caches, lengths, strict=True)
            ]
            attention_out = cat(attention_outs) if self.window else attention_outs[0]
            delta = layer.after_attention(x, attention_out.flatten(1))
        next_layer()
        hidden = self.norm(x, delta)
        return hidden if early is None else cat([hidden, early])

    def _attend(
        self,
        layer: int,
        qkv: torch.Tensor,  # [R', (H + 2 Hkv) * Dh]: of the rows of `cache`
        positions: torch.Tensor,  # [B] int64
        cache: KvCache,
        lengths: torch.Tensor,  # [B] int64: entries of the cache to attend to
        dropout: AttentionDropout | None,
    ) -> torch.Tensor:  # [R', H, Dh]
        keys, values, scales = cache.of_layer(layer)
        query = rotary_to_cache(
            qkv,
            self.cos,
            self.sin,
            positions,
            keys,
            values,
            query_norm=self.layers[layer].query_norm,
            key_norm=self.layers[layer].key_norm,
            eps=self.config.norm_eps,
            scales=scales,
        )
        scale = self.config.head_dim**-0.5
        return decode_attention(
            query, keys, values, lengths, scale=scale, dropout=dropout, scales=scales
        )

    def embed(
        self,
        tokens: torch.Tensor,  # [B] int64
        positions: torch.Tensor,  # [B] int64
    ) -> torch.Tensor:  # [blocks * B, D]: the residual stream before the first layer
        if self.device.type == "cpu":
            table, learned = self.embedding, self.position_table
            if learned is not None:
                learned = learned.view(self.models, -1, learned.shape[1])
            table = table.view(self.models, -1, table.shape[1])
            return embedding(tokens, positions, self.blocks, table, learned)
        x = F.embedding(self._rows_of(tokens, self.config.vocab_size), self.embedding)
        if self.position_table is not None:
            rows = self._rows_of(positions, self.config.learned_positions)
            x += F.embedding(rows, self.position_table)
        return x

    def _rows_of(self, index: torch.Tensor, size: int) -> torch.Tensor:  # [B] -> [blocks * B]
        """Return the rows of the models' stacked tables, of `size` rows each, for every block."""
        return (index + self.blocks[:, None] * size).flatten()

    def head_weight(self, model: int = 0) -> torch.Tensor:  # [V, D]; no head here has a bias
        return self._head[model]

    def logits(
        self,
        hidden: torch.Tensor,  # [B, D]
        model: int = 0,
    ) -> torch.Tensor:  # [B, V] float32; on a GPU [B, logits_width] like the weights, 0 after V
        if model not in self._to_logits:
            # Packed on first use: BAD's head is usually needed at plausible tokens only.
            weight = self.head_weight(model)
            missing = self.config.logits_width - len(weight)
            if missing and weight.device.type != "cpu":
                weight = F.pad(weight, (0, 0, 0, missing))
            self._to_logits[model] = head_linear(weight)
        return self._to_logits[model](hidden)


def forward_together(
    good: Decoder,
    bad: Decoder,
    tokens: torch.Tensor,  # [B] int64
    positions: torch.Tensor,  # [B] int64
    sequence_ids: torch.Tensor,  # [B] int64
) -> tuple[torch.Tensor, torch.Tensor]:  # what each decoder's `forward` returns
    """Run two decoders on a CPU with two threads, at the same time if they cost about the same.

    Each has a thread of its own then: no op waits for another thread, and while one decoder waits
    for memory, which is what attention does, the other one multiplies. A step takes 0.9 of its time
    (docs/decisions.md, 2026-11-28). The bits do not depend on the threads.
    """
    step = tokens, positions, sequence_ids
    costs = [decoder.config.layer_parameters for decoder in (good, bad)]
    if threads() != 2 or max(costs) > 1.1 * sum(costs) / 2:
        return good.forward(*step), bad.forward(*step)
    assert isinstance(good._run_layers, Recorded) and isinstance(bad._run_layers, Recorded)
    inputs = good._layer_inputs(*step), bad._layer_inputs(*step)
    return good._run_layers.beside(bad._run_layers, *inputs)
