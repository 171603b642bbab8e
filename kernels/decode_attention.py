"""Attention of one query token per row over a KV cache with per-row lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from cdgen.kernels import reference
from cdgen.kernels.decoder_ops import check_caches, check_dtype, check_per_sequence
from cdgen.kernels.dispatch import Backend, check, choose_backend, native, threads


@dataclass(frozen=True)
class AttentionDropout:
    """Dropout of attention weights, its noise keyed by (seed, sequence, position, layer, head, key)
    as in `reference.dropout_keep`. `rate` is in [0, 1), `seed` 64 bits.

    Rows before `first_row` keep every weight. A BAD that is GOOD under dropout has GOOD's weights,
    so both run as one batch, GOOD's B rows before BAD's: first_row is B.
    """

    rate: float
    seed: int
    layer: int
    sequence_ids: torch.Tensor  # [B] int64, below 2**48
    first_row: int = 0


_NO_DROPOUT = AttentionDropout(0.0, 0, 0, torch.empty(0, dtype=torch.int64))


def decode_attention(
    query: torch.Tensor,  # [R, H, D] float32; on backends but cpu also bfloat16, float16
    keys: torch.Tensor,  # [R, Hkv, T, D] cache, like query; on backends but cpu also float8_e4m3fn
    values: torch.Tensor,  # [R, Hkv, T, D] cache, like keys
    lengths: torch.Tensor,  # [B] int64 in [1, T]: row r attends to entries [0, lengths[r % B])
    *,
    scale: float,
    dropout: AttentionDropout | None = None,
    backend: str | None = None,
) -> torch.Tensor:  # [R, H, D], like query
    """softmax(scale * q . k) over the row's own keys, applied to its values; entries past the
    length are never read. Sums run in one order per row, whatever its neighbours' lengths.

    R is B, or a multiple of it: GOOD's rows for B sequences, then BAD's for the same sequences, in
    one launch. Softmax and sums are fp32; backend triton rounds the weights to the query's dtype
    where query heads share KV heads, takes head sizes up to 256, and fp8 caches from compute
    capability 8.9 on. Raises ValueError on tensors that do not fit; lengths are the caller's
    promise.
    """
    chosen = choose_backend(query.device, backend)
    _check(query, keys, values, lengths, dropout, chosen)
    if chosen == "triton":
        return _triton(query, keys, values, lengths, scale, dropout)
    if (repeats := len(query) // len(lengths)) > 1:
        lengths = lengths.repeat(repeats)
        if dropout:
            dropout = replace(dropout, sequence_ids=dropout.sequence_ids.repeat(repeats))
    attend = _reference if chosen == "reference" else _native
    if not dropout or dropout.first_row == 0:
        return attend(query, keys, values, lengths, scale, dropout)
    first = dropout.first_row
    rest = replace(dropout, sequence_ids=dropout.sequence_ids[first:])
    parts = [
        attend(query[rows], keys[rows], values[rows], lengths[rows], scale, noise)
        for rows, noise in ((slice(first), None), (slice(first, None), rest))
    ]
    return torch.cat(parts)


def _check(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
    dropout: AttentionDropout | None,
    backend: Backend,
) -> None:
    rows, heads, width = query.shape
    kv_heads, capacity = keys.shape[1:3]
    check_dtype("query", query, backend)
    check("query", query, (rows, heads, width), query.dtype)
    check_caches(keys, values, (rows, kv_heads, capacity, width), query.dtype, backend)
    check_per_sequence("lengths", lengths, rows)
    if heads % kv_heads:
        raise ValueError(f"query: expected heads in groups of {kv_heads}, got {heads}")
    if dropout:
        check("sequence_ids", dropout.sequence_ids, (len(lengths),), torch.int64)
        if not 0 <= dropout.first_row <= rows:
            raise ValueError(f"first_row: expected 0 to {rows} rows, got {dropout.first_row}")


def _reference(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,  # [R]
    scale: float,
    dropout: AttentionDropout | None,  # of every row
) -> torch.Tensor:
    if not dropout:
        return reference.decode_attention(query, keys, values, lengths, scale)
    keep = reference.dropout_keep(
        dropout.seed, dropout.rate, dropout.layer, dropout.sequence_ids, lengths,
        query.shape[1], keys.shape[2],
    )  # fmt: skip
    return reference.decode_attention(query, keys, values, lengths, scale, keep, dropout.rate)


def _native(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,  # [R]
    scale: float,
    dropout: AttentionDropout | None,  # of every row
) -> torch.Tensor:
    rows, heads, width = query.shape
    out = torch.empty_like(query)
    d = dropout or _NO_DROPOUT
    native.decode_attention(
        query.data_ptr(), keys.data_ptr(), values.data_ptr(), lengths.data_ptr(), out.data_ptr(),
        rows, heads, keys.shape[1], keys.shape[2], width, scale, d.rate, d.seed, d.layer,
        d.sequence_ids.data_ptr(), threads(),
    )  # fmt: skip
    return out


def _triton(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    dropout: AttentionDropout | None,
) -> torch.Tensor:
    from cdgen.kernels.gpu import decode_attention as gpu

    if query.shape[2] > gpu.WIDEST_HEAD:
        raise ValueError(
            f"query: expected heads up to {gpu.WIDEST_HEAD} wide, got {query.shape[2]}"
        )
    d = dropout or _NO_DROPOUT
    return gpu.decode_attention(
        query, keys, values, lengths, scale, d.sequence_ids if dropout else None, d.rate,
        d.seed & 0xFFFFFFFF, d.seed >> 32, d.layer, d.first_row,
    )  # fmt: skip
