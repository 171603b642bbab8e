"""Attention of one query token per row over a KV cache with per-row lengths."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cdgen.kernels import reference
from cdgen.kernels.dispatch import check, choose_backend, native, threads


@dataclass(frozen=True)
class AttentionDropout:
    """Dropout of attention weights, its noise keyed by (seed, sequence, position, layer, head, key)
    as in `reference.dropout_keep`. `rate` is in [0, 1)."""

    rate: float
    seed: int
    layer: int
    sequence_ids: torch.Tensor  # [B] int64, below 2**48


_NO_DROPOUT = AttentionDropout(0.0, 0, 0, torch.empty(0, dtype=torch.int64))


def decode_attention(
    query: torch.Tensor,  # [B, H, D] float32
    keys: torch.Tensor,  # [B, Hkv, T, D] float32 cache
    values: torch.Tensor,  # [B, Hkv, T, D] float32 cache
    lengths: torch.Tensor,  # [B] int64 in [1, T]: row b attends to entries [0, lengths[b])
    *,
    scale: float,
    dropout: AttentionDropout | None = None,
    backend: str | None = None,
) -> torch.Tensor:  # [B, H, D]
    """softmax(scale * q . k) over the row's own keys, applied to its values; entries past the
    length are never read. Sums run in one order per row, whatever its neighbours' lengths.

    Raises ValueError on tensors that do not fit; lengths are the caller's promise.
    """
    rows, heads, width = query.shape
    kv_heads, capacity = keys.shape[1:3]
    check("query", query, (rows, heads, width))
    for name, cache in (("keys", keys), ("values", values)):
        check(name, cache, (rows, kv_heads, capacity, width))
    check("lengths", lengths, (rows,), torch.int64)
    if heads % kv_heads:
        raise ValueError(f"query: expected heads in groups of {kv_heads}, got {heads}")
    if dropout:
        check("sequence_ids", dropout.sequence_ids, (rows,), torch.int64)
    if choose_backend(query.device, backend) == "reference":
        keep = None
        if dropout:
            keep = reference.dropout_keep(
                dropout.seed, dropout.rate, dropout.layer, dropout.sequence_ids, lengths,
                heads, capacity,
            )  # fmt: skip
        rate = dropout.rate if dropout else 0.0
        return reference.decode_attention(query, keys, values, lengths, scale, keep, rate)
    out = torch.empty_like(query)
    d = dropout or _NO_DROPOUT
    native.decode_attention(
        query.data_ptr(), keys.data_ptr(), values.data_ptr(), lengths.data_ptr(), out.data_ptr(),
        rows, heads, kv_heads, capacity, width, scale, d.rate, d.seed, d.layer,
        d.sequence_ids.data_ptr(), threads(),
    )  # fmt: skip
    return out
