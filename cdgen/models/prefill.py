"""Whole texts through a decoder, with attention in plain PyTorch: prompts into its caches, and the
hidden states of every position.

Sums run in another order than token by token, so bits differ. The noise of dropout is the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cdgen.kernels import reference
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.layers import Layer


def prefill(
    decoder: Decoder,
    rows: torch.Tensor,  # [N] int64: slots, each in every block
    tokens: torch.Tensor,  # [N, P] int64
    lengths: torch.Tensor,  # [N] int64 up to P: tokens from there on are not read
    sequence_ids: torch.Tensor | None = None,  # [N] int64, needed for dropout
) -> None:
    """Write keys and values of positions 0 to P - 1 into the decoder's caches.

    Entries at or past a row's length must be overwritten before they are read. Raises ValueError if
    dropout lacks its sequence ids, or on an int8 cache, which no GPU has.
    """
    _run(decoder, rows, tokens, lengths, sequence_ids, is_prompt=True)


def hidden_states(
    decoder: Decoder,
    tokens: torch.Tensor,  # [N, P] int64, N up to the decoder's slots
    sequence_ids: torch.Tensor,  # [N] int64, for dropout
) -> torch.Tensor:  # [blocks, N, P, D]: GOOD's, then BAD's
    """Return what `Decoder.forward` returns after each token of whole texts. They take the place of
    what the first N slots hold."""
    rows = torch.arange(len(tokens), device=tokens.device)
    lengths = torch.full_like(rows, tokens.shape[1])
    x, delta, early = _run(decoder, rows, tokens, lengths, sequence_ids, is_prompt=False)
    hidden = decoder.norm(x, delta)
    return (hidden if early is None else torch.cat([hidden, early])).unflatten(
        0, (-1, *tokens.shape)
    )


def _run(
    decoder: Decoder,
    rows: torch.Tensor,  # [N] int64
    tokens: torch.Tensor,  # [N, P] int64
    lengths: torch.Tensor,  # [N] int64
    sequence_ids: torch.Tensor | None,  # [N] int64
    is_prompt: bool,  # the last layer's keys and values are all that is wanted of it
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Return the residual stream [blocks * N * P, D], what is still to be added to it, and the
    hidden state at the decoder's early exit."""
    if decoder.caches[0].scales is not None:
        raise ValueError("decoder: expected a cache of floats, got int8")
    if decoder.dropout and sequence_ids is None:
        raise ValueError("sequence_ids: expected them, for dropout's noise, got None")
    count, length = tokens.shape
    positions = torch.arange(length, device=tokens.device)
    tokens = tokens.masked_fill(positions >= lengths[:, None], 0)
    caches = len(decoder.caches)
    blocks = len(decoder.blocks) // caches  # in each cache
    first_rows = decoder.slots * torch.arange(blocks, device=rows.device)
    cells = (rows + first_rows[:, None]).flatten()  # rows of each cache
    x = decoder.embed(tokens.flatten(), positions.repeat(count))  # [S * P, D]
    delta = early = None
    for i, layer in enumerate(decoder.layers):
        normed = layer.attention_norm(x, delta)
        if i == decoder.exit_layers:
            early = decoder.norm(x, None)
        qkv = layer.qkv(normed)
        query, key, value = _heads(decoder, layer, qkv, length)
        shares = zip(decoder.caches, key.chunk(caches), value.chunk(caches), strict=True)
        for cache, own_key, own_value in shares:
            cache.write_texts(i, cells, own_key, own_value, lengths.repeat(blocks))
        if is_prompt and i + 1 == len(decoder.layers):
            break
        key, value = key.to(query.dtype), value.to(query.dtype)
        attention_out = _attend(decoder, i, query, key, value, sequence_ids)
        delta = layer.after_attention(x, attention_out.transpose(1, 2).flatten(2).flatten(0, 1))
    return x, delta, early


def _heads(
    decoder: Decoder,
    layer: Layer,
    qkv: torch.Tensor,  # [S * P, (H + 2 Hkv) * Dh]
    length: int,  # P
) -> list[torch.Tensor]:  # [S, H | Hkv, P, Dh]: rotated queries; keys and values as stored
    c = decoder.config
    heads = [c.num_attention_heads, c.num_key_value_heads, c.num_key_value_heads]
    q, k, v = qkv.unflatten(1, (-1, c.head_dim)).split(heads, dim=1)
    if layer.query_norm is not None and layer.key_norm is not None:
        q, k = (
            _head_norm(x, w, c.norm_eps) for x, w in ((q, layer.query_norm), (k, layer.key_norm))
        )
    copies = len(qkv) // length
    cos, sin = (table[:length].repeat(copies, 1) for table in (decoder.cos, decoder.sin))
    stored = decoder.caches[0].keys.dtype
    rotated = reference.rotary(k.float(), cos, sin)
    parts = (
        reference.rotary(q, cos, sin),
        reference.stored(rotated, stored),
        reference.stored(v, stored),
    )
    return [x.unflatten(0, (copies, length)).transpose(1, 2) for x in parts]


def _head_norm(
    x: torch.Tensor,  # [R, H, Dh]
    weight: torch.Tensor,  # [Dh] | [M, Dh]
    eps: float,
) -> torch.Tensor:
    own = weight.view(-1, 1, 1, weight.shape[-1])
    return reference.rms_norm(x.unflatten(0, (len(own), -1)), own, eps).flatten(0, 1)


def _attend(
    decoder: Decoder,
    layer: int,
    query: torch.Tensor,  # [S, H, P, Dh]
    key: torch.Tensor,  # [S, Hkv, P, Dh]
    value: torch.Tensor,  # [S, Hkv, P, Dh]
    sequence_ids: torch.Tensor | None,  # [N]
) -> torch.Tensor:  # [S, H, P, Dh]
    dropout, count = decoder.dropout, len(query) // len(decoder.blocks)
    if decoder.window:
        (q, q_bad), (k, k_bad), (v, v_bad) = (x.split(count) for x in (query, key, value))
        return torch.cat([_causal(q, k, v), _causal(q_bad, k_bad, v_bad, window=decoder.window)])
    if dropout is None or sequence_ids is None:
        return _causal(query, key, value)
    parts = [_causal(query[:count], key[:count], value[:count])]
    # One sequence at a time: the random words of all would take gigabytes with long prompts.
    for row, sequence_id in enumerate(sequence_ids, start=count):
        own = slice(row, row + 1)
        keep = _kept(dropout, layer, sequence_id, query.shape[1], query.shape[2])
        parts.append(_causal(query[own], key[own], value[own], keep, dropout.rate))
    return torch.cat(parts)


def _kept(
    dropout: Dropout,
    layer: int,
    sequence_id: torch.Tensor,  # scalar int64
    heads: int,
    length: int,
) -> torch.Tensor:  # [1, H, P, P] bool
    lengths = torch.arange(1, length + 1, device=sequence_id.device)
    keep = reference.dropout_keep(
        dropout.seed, dropout.rate, layer, sequence_id.expand(length), lengths, heads, length
    )  # [P, H, P]
    return keep.transpose(0, 1)[None]


def _causal(
    query: torch.Tensor,  # [S, H, P, Dh]
    key: torch.Tensor,  # [S, Hkv, P, Dh]
    value: torch.Tensor,  # [S, Hkv, P, Dh]
    keep: torch.Tensor | None = None,  # [S, H, P, P] bool
    rate: float = 0.0,
    window: int | None = None,  # positions in view, the query's own included; None: all
) -> torch.Tensor:  # [S, H, P, Dh]
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    if window is not None:
        in_view = query.new_ones(query.shape[2], query.shape[2], dtype=torch.bool)
        in_view = in_view.tril().triu(1 - window)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=in_view)
    if keep is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    score = query.float() @ key.float().mT * query.shape[-1] ** -0.5
    future = torch.ones_like(keep[0, 0]).triu(1)
    weight = score.masked_fill(future, float("-inf")).softmax(-1) * keep / (1 - rate)
    return (weight @ value.float()).to(query.dtype)
