"""The keys and values that a decoder keeps for its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from cdgen.models.config import DecoderConfig


@dataclass(frozen=True)
class KvCache:
    """The keys and values of some rows of a decoder in every layer.

    With fewer entries than a sequence has tokens, a cache is a ring: position p stands at entry
    p % T, in the place of position p - T. A row then attends to the last T positions.
    """

    keys: torch.Tensor  # [L, R, Hkv, T, Dh]
    values: torch.Tensor  # like keys
    scales: torch.Tensor | None = None  # [L, 2, R, Hkv, T] float32 of int8: keys' and values'

    @classmethod
    def of_zeros(
        cls,
        config: DecoderConfig,
        rows: int,
        entries: int,  # T
        dtype: torch.dtype,
        device: torch.device,
    ) -> Self:
        layers, heads = config.num_hidden_layers, config.num_key_value_heads
        shape = (layers, rows, heads, entries, config.head_dim)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        if dtype is not torch.int8:
            return cls(keys, values)
        return cls(keys, values, torch.zeros(layers, 2, *shape[1:4], device=device))

    @property
    def entries(self) -> int:
        return self.keys.shape[3]

    def of_layer(
        self, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:  # as rotary_to_cache takes them
        """Return the layer's keys, values and scales."""
        scales = None if self.scales is None else self.scales[layer]
        return self.keys[layer], self.values[layer], scales

    def write_texts(
        self,
        layer: int,
        rows: torch.Tensor,  # [S] int64
        key: torch.Tensor,  # [S, Hkv, P, Dh]: positions 0 to P - 1
        value: torch.Tensor,  # like key
        lengths: torch.Tensor,  # [S] int64 up to P: the tokens of each text
    ) -> None:
        """Write whole texts, or what a ring keeps of them. Entries of no token get any number."""
        for cache, new in ((self.keys[layer], key), (self.values[layer], value)):
            if new.shape[2] <= self.entries:
                cache[rows, :, : new.shape[2]] = new
                continue
            last = lengths[:, None] - 1
            entry = torch.arange(self.entries, device=new.device)
            kept = last - (last - entry) % self.entries  # the text's last position at each entry
            text = torch.arange(len(rows), device=new.device)[:, None]
            cache[rows] = new.transpose(1, 2)[text, kept.clamp(min=0)].transpose(1, 2)
