"""Attention of one query token per row over a KV cache in which every row has its own length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from cdgen.kernels import reference
from cdgen.kernels.arguments import (
    addresses,
    check_caches,
    check_dtype,
    check_per_sequence,
    check_tensor,
    dtype_name,
    native_cache,
)
from cdgen.kernels.dispatch import Backend, choose_backend, native, threads
from cdgen.kernels.recording import empty


@dataclass(frozen=True)
class AttentionDropout:
    """Dropout of attention weights, its noise keyed by (seed, sequence, position, layer, head, key)
    as in `reference.dropout_keep`. `rate` is in [0, 1), `seed` has 64 bits.

    Rows before `first_row` keep every weight. If BAD is GOOD under dropout, it has GOOD's weights,
    so both run as one batch, GOOD's B rows before BAD's: first_row is B.
    """

    rate: float
    seed: int
    layer: int
    sequence_ids: torch.Tensor  # [B] int64, below 2**48
    first_row: int = 0


_NO_DROPOUT = AttentionDropout(0.0, 0, 0, torch.empty(0, dtype=torch.int64))


class _Args(NamedTuple):
    """The arguments of `decode_attention`."""

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    lengths: torch.Tensor
    scale: float
    dropout: AttentionDropout | None
    scales: torch.Tensor | None


def decode_attention(
    query: torch.Tensor,  # [R, H, Dh]
    keys: torch.Tensor,  # [R, Hkv, T, Dh] cache, like query or as `check_caches` lists
    values: torch.Tensor,  # [R, Hkv, T, Dh] cache, like keys
    lengths: torch.Tensor,  # [B] int64 in [1, T]: row r attends to entries [0, lengths[r % B])
    *,
    scale: float,
    dropout: AttentionDropout | None = None,
    scales: torch.Tensor | None = None,  # [2, R, Hkv, T] float32, of an int8 cache: keys', values'
    backend: str | None = None,
) -> torch.Tensor:  # [R, H, Dh], like query
    """Return softmax(scale * q . k) over the row's own keys, applied to its values.

    R is B or a multiple of it: GOOD's rows for B sequences, then BAD's for the same sequences, in
    one launch. Entries past a row's length are never read. The order of a row's sums depends on its
    own length alone, not on its neighbours'. Softmax and sums are fp32. kernels/arguments.py lists
    the dtypes.

    Backend triton rounds the weights to the query's dtype if query heads share KV heads; it takes
    head_dim up to 256, and fp8 caches from compute capability 8.9 on. Raises ValueError on tensors
    that do not fit; lengths within [1, T] are the caller's promise.
    """
    chosen = choose_backend(query.device, backend)
    args = _Args(query, keys, values, lengths, scale, dropout, scales)
    _check(args, chosen)
    if chosen == "triton":
        return _triton(args)
    return _reference(args) if chosen == "reference" else _native(args)


def _check(args: _Args, backend: Backend) -> None:
    rows, heads, head_dim = args.query.shape
    kv_heads, capacity = args.keys.shape[1:3]
    dtype = args.query.dtype
    check_dtype("query", args.query, backend)
    check_tensor("query", args.query, (rows, heads, head_dim), dtype)
    shape = rows, kv_heads, capacity, head_dim
    check_caches(args.keys, args.values, args.scales, shape, dtype, backend)
    check_per_sequence("lengths", args.lengths, rows)
    if heads % kv_heads:
        raise ValueError(f"query: expected heads in groups of {kv_heads}, got {heads}")
    if args.dropout:
        sequences = args.lengths.shape[0]
        check_tensor("sequence_ids", args.dropout.sequence_ids, (sequences,), torch.int64)
        if not 0 <= args.dropout.first_row <= rows:
            raise ValueError(f"first_row: expected 0 to {rows}, got {args.dropout.first_row}")


def _reference(args: _Args) -> torch.Tensor:
    dropout, repeats = args.dropout, len(args.query) // len(args.lengths)
    lengths = args.lengths.repeat(repeats)
    if not dropout:
        return reference.decode_attention(*args[:3], lengths, args.scale, scales=args.scales)

    def inputs(rows: slice) -> dict[str, Any]:
        return {
            "query": args.query[rows],
            "keys": args.keys[rows],
            "values": args.values[rows],
            "lengths": lengths[rows],
            "scale": args.scale,
            "scales": None if args.scales is None else args.scales[:, rows],
        }

    before, after = slice(dropout.first_row), slice(dropout.first_row, None)
    keep = reference.dropout_keep(
        dropout.seed,
        dropout.rate,
        dropout.layer,
        dropout.sequence_ids.repeat(repeats)[after],
        lengths[after],
        heads=args.query.shape[1],
        keys=args.keys.shape[2],
    )
    whole = reference.decode_attention(**inputs(before))
    thinned = reference.decode_attention(**inputs(after), keep=keep, rate=dropout.rate)
    return torch.cat([whole, thinned])


def _native(args: _Args) -> torch.Tensor:
    rows, heads, head_dim = args.query.shape
    kv_heads, capacity = args.keys.shape[1:3]
    out = empty(rows, heads, head_dim, dtype=args.query.dtype)
    native.decode_attention(
        args.query.data_ptr(),
        native_cache(args.keys, args.values, args.scales),
        *addresses(args.lengths, out),
        dtype_name(args.query.dtype),
        native.CacheShape(rows, heads, kv_heads, capacity, head_dim),
        args.lengths.shape[0],
        args.scale,
        None if args.dropout is None else _native_dropout(args.dropout),
        threads(),
    )
    return out


def _native_dropout(x: AttentionDropout) -> Any:
    return native.AttentionDropout(x.rate, x.seed, x.layer, x.first_row, x.sequence_ids.data_ptr())


def _triton(args: _Args) -> torch.Tensor:
    from cdgen.kernels.gpu import decode_attention as gpu

    head_dim = args.query.shape[2]
    if head_dim > gpu.WIDEST_HEAD:
        raise ValueError(f"query: expected head_dim up to {gpu.WIDEST_HEAD}, got {head_dim}")
    dropout = args.dropout or _NO_DROPOUT
    return gpu.decode_attention(
        args.query,
        args.keys,
        args.values,
        args.lengths,
        args.scale,
        args.dropout.sequence_ids if args.dropout else None,
        dropout.rate,
        dropout.seed & 0xFFFFFFFF,
        dropout.seed >> 32,
        dropout.layer,
        dropout.first_row,
    )
