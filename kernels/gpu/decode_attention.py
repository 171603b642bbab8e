"""Triton kernels of decode attention: one program per (row, KV head) reads its keys and values
once.

The keys of one (row, KV head) are never split over programs. Splitting pays if rows x KV heads are
fewer than the GPU can hold at once, but a generator runs hundreds of rows. The split would depend
on the number of rows, so the order of a row's sums, and with it the row's bits, would depend on its
neighbours. Here that order is a fixed function of the row's own length.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from cdgen.kernels.gpu.philox import in_token_order, philox4x32, signed_word
from cdgen.kernels.gpu.precision import dot, require_fp8, rounded, widened

# Less than every score: exp2(_LOWEST - score) is 0, and no difference is NaN, as with -inf.
_LOWEST = tl.constexpr(-1e38)

# Keys per tile, by whether query heads share KV heads; warps, by that, by bytes per number and by
# padded head size. The numbers are the cache's for a head alone, and the query's for groups, whose
# product takes the cache in the query's dtype. Compiled for compute capability 8.0, 9.0 and 10.0:
# these have the fewest instructions per key without spills among the sizes tried, and 64 KiB or
# more of tiles in flight per multiprocessor, where 4.8 TB/s over 132 of them and a latency of a
# microsecond need 36. For a head alone, a tile is two 16-byte loads per thread, which takes half
# the registers of four and 4 % more instructions. In groups, one warp needs no barriers between its
# matrix products. An fp8 cache, from 9.0 on, keeps these tiles: for a head alone, one 16-byte load
# per thread where bf16 takes two, with 18 instructions per key and warp at head size 64 (bf16: 24)
# and 56 KiB in flight. Double tiles save 3 % of them and take 80 to 90 registers. In groups,
# unpacking doubles the instructions, 24 per key (bf16: 12); with two warps they are 29. So fp8 may
# be limited by instructions and not by bandwidth. Not timed on a GPU yet.
_STAGES = 3
_TILE = {False: 16, True: 32}
_WARPS = {
    (False, 1): {16: 1, 32: 1, 64: 2, 128: 4, 256: 8},
    (False, 2): {16: 1, 32: 1, 64: 2, 128: 4, 256: 8},
    (False, 4): {16: 1, 32: 2, 64: 4, 128: 8, 256: 16},
    (True, 2): {16: 1, 32: 1, 64: 1, 128: 2, 256: 4},
    (True, 4): {16: 4, 32: 4, 64: 4, 128: 8, 256: 8},
}
WIDEST_HEAD = 256


class RowNoise(NamedTuple):
    """The dropout noise of one row."""

    sequence: Any  # int64: its sequence id
    key_low: Any  # uint32: the key of Philox
    key_high: Any
    bound: Any  # uint32: smaller words drop a weight
    factor: Any  # of the weights that are kept


@triton.jit
def _row_noise(sequence_ids, seed_low, seed_high, bound, kept_weight, row, batch, first_row):
    """Return the noise of a row. Rows before `first_row` drop no weight."""
    sequence = tl.load(sequence_ids + row % batch)
    # The halves are reinterpreted, not converted: their signs must not spread.
    key_low, seed_high = seed_low.to(tl.uint32, bitcast=True), seed_high.to(tl.uint32, bitcast=True)
    key_high = seed_high ^ 0xFFFFFFFF
    drops = row >= first_row
    bound = tl.where(drops, bound, 0).to(tl.uint32, bitcast=True)
    return RowNoise(sequence, key_low, key_high, bound, tl.where(drops, kept_weight, 1.0))


@triton.jit
def _kept(noise, length, stream, start, TILE: tl.constexpr):
    """Return `reference.dropout_keep` for the keys from `start` on; `stream` is layer * H +
    head."""
    block = start // 4 + tl.arange(0, TILE // 4)
    upper = (noise.sequence >> 32).to(tl.uint32) | (stream << 16).to(tl.uint32)
    if len(upper.shape):
        block = block[None, :]
    block, upper = tl.broadcast(block.to(tl.uint32), upper)
    same = tl.zeros_like(block)
    position, low = same + (length - 1).to(tl.uint32), same + noise.sequence.to(tl.uint32)
    a, b, c, d = philox4x32(block, position, low, upper, noise.key_low, noise.key_high)
    # Key t takes word t & 3 of block t >> 2.
    return in_token_order(a, b, c, d) >= noise.bound


@triton.jit(
    do_not_specialize=["batch", "seed_low", "seed_high", "bound", "first_row", "first_stream"]
)
def _attend_single(
    query,  # [R, H, Dh]
    keys,  # [R, H, T, Dh]
    values,  # [R, H, T, Dh]
    lengths,  # [B]
    sequence_ids,  # [B]
    out,  # [R, H, Dh]
    batch,
    capacity,
    log2_scale,
    seed_low,
    seed_high,
    bound,
    kept_weight,
    first_row,
    first_stream,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    # out = sum_t softmax_t(scale q . k_t) v_t.  Slot j of a tile keeps the softmax of keys
    # j, j + TILE, j + 2 TILE ... for itself (running maximum, total, weighted sum), so that no
    # thread waits for another inside the loop; the slots are merged after it.
    program = tl.program_id(0).to(tl.int64)
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    length = tl.load(lengths + row % batch).to(tl.int32)
    slot, d = tl.arange(0, TILE), tl.arange(0, BLOCK_DIM)
    inside = d < HEAD_DIM
    q = tl.load(query + program * HEAD_DIM + d, mask=inside, other=0.0).to(tl.float32)
    tile = program * capacity * HEAD_DIM
    offsets = slot[:, None] * HEAD_DIM + d[None, :]

    if DROPOUT:
        noise = _row_noise(
            sequence_ids, seed_low, seed_high, bound, kept_weight, row, batch, first_row
        )
    largest = tl.full([TILE], _LOWEST, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, BLOCK_DIM], tl.float32)
    for start in tl.range(0, length, TILE, num_stages=STAGES):
        live = start + slot < length
        mask = live[:, None] & inside[None, :]
        k = widened(tl.load(keys + tile + offsets, mask=mask, other=0.0), tl.float32)
        v = widened(tl.load(values + tile + offsets, mask=mask, other=0.0), tl.float32)
        score = tl.where(live, tl.sum(q[None, :] * k, axis=1) * log2_scale, float("-inf"))
        before, largest = largest, tl.maximum(largest, score)
        weight, shrink = tl.exp2(score - largest), tl.exp2(before - largest)
        total = total * shrink + weight
        if DROPOUT:
            keep = _kept(noise, length, first_stream + head, start, TILE)
            weight = tl.where(keep, weight, 0.0)
        # Spelled out, because the compiler would fuse one product or the other, by DROPOUT.
        acc = tl.fma(tl.broadcast_to(weight[:, None], v.shape), v, acc * shrink[:, None])
        tile += TILE * HEAD_DIM

    # A fused sum with 0 rounds each product before the slots are added. Otherwise two threads with
    # copies of the same slots would each fuse one product into the sum, and not the same one.
    share = tl.exp2(largest - tl.max(largest, axis=0))
    acc = tl.fma(acc, tl.broadcast_to(share[:, None], acc.shape), tl.zeros_like(acc))
    total = tl.fma(total, share, tl.zeros_like(total))
    result = tl.sum(acc, axis=0) / tl.sum(total, axis=0)
    if DROPOUT:
        result *= noise.factor
    tl.store(out + program * HEAD_DIM + d, rounded(result, out.dtype.element_ty), mask=inside)


@triton.jit(
    do_not_specialize=["batch", "seed_low", "seed_high", "bound", "first_row", "first_stream"]
)
def _attend_grouped(
    query,  # [R, H, Dh]
    keys,  # [R, Hkv, T, Dh]
    values,  # [R, Hkv, T, Dh]
    lengths,  # [B]
    sequence_ids,  # [B]
    out,  # [R, H, Dh]
    batch,
    capacity,
    log2_scale,
    seed_low,
    seed_high,
    bound,
    kept_weight,
    first_row,
    first_stream,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    # out_g = sum_t softmax_t(scale q_g . k_t) v_t for the queries g that share a KV head, padded to
    # the rows of a matrix product; one running softmax per query.
    program = tl.program_id(0).to(tl.int64)
    row, kv_head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    length = tl.load(lengths + row % batch).to(tl.int32)
    g, slot, d = tl.arange(0, BLOCK_GROUP), tl.arange(0, TILE), tl.arange(0, BLOCK_DIM)
    inside = d < HEAD_DIM
    cells = program * (GROUP * HEAD_DIM) + g[:, None] * HEAD_DIM + d[None, :]
    present = (g < GROUP)[:, None] & inside[None, :]
    q = tl.load(query + cells, mask=present, other=0.0)
    tile = program * capacity * HEAD_DIM
    offsets = slot[:, None] * HEAD_DIM + d[None, :]

    if DROPOUT:
        stream = first_stream + kv_head * GROUP + g
        noise = _row_noise(
            sequence_ids, seed_low, seed_high, bound, kept_weight, row, batch, first_row
        )
    largest = tl.full([BLOCK_GROUP], _LOWEST, tl.float32)
    total = tl.zeros([BLOCK_GROUP], tl.float32)
    acc = tl.zeros([BLOCK_GROUP, BLOCK_DIM], tl.float32)
    for start in tl.range(0, length, TILE, num_stages=STAGES):
        live = start + slot < length
        mask = live[:, None] & inside[None, :]
        k = widened(tl.load(keys + tile + offsets, mask=mask, other=0.0), q.dtype)
        v = widened(tl.load(values + tile + offsets, mask=mask, other=0.0), q.dtype)
        score = dot(q, tl.trans(k), tl.zeros([BLOCK_GROUP, TILE], tl.float32)) * log2_scale
        score = tl.where(live[None, :], score, float("-inf"))
        before, largest = largest, tl.maximum(largest, tl.max(score, axis=1))
        weight, shrink = tl.exp2(score - largest[:, None]), tl.exp2(before - largest)
        total = total * shrink + tl.sum(weight, axis=1)
        if DROPOUT:
            keep = _kept(noise, length, stream[:, None], start, TILE)
            weight = tl.where(keep, weight, 0.0)
        acc = dot(rounded(weight, v.dtype), v, acc * shrink[:, None])
        tile += TILE * HEAD_DIM

    result = acc / total[:, None]
    if DROPOUT:
        result *= noise.factor
    tl.store(out + cells, rounded(result, out.dtype.element_ty), mask=present)


@torch.library.custom_op("cdgen::decode_attention", mutates_args=())
def decode_attention(
    query: torch.Tensor,  # [R, H, Dh] float32 | bfloat16 | float16, contiguous as all tensors here
    keys: torch.Tensor,  # [R, Hkv, T, Dh], like query, or float8_e4m3fn
    values: torch.Tensor,  # [R, Hkv, T, Dh], like keys
    lengths: torch.Tensor,  # [B] int64: row r takes lengths[r % B]
    scale: float,
    sequence_ids: torch.Tensor | None,  # [B] int64; None: no dropout
    rate: float,
    seed_low: int,  # halves of the seed, each in [0, 2**32): arguments are signed
    seed_high: int,
    layer: int,
    first_row: int,  # rows before it keep every weight
) -> torch.Tensor:  # [R, H, Dh]
    rows, heads, head_dim = query.shape
    kv_heads, capacity = keys.shape[1:3]
    group, block_dim = heads // kv_heads, max(16, triton.next_power_of_2(head_dim))
    out = torch.empty_like(query)
    dropout = sequence_ids is not None
    arguments = (
        query,
        keys,
        values,
        lengths,
        sequence_ids if dropout else lengths,
        out,
        len(lengths),
        capacity,
        scale * math.log2(math.e),
        signed_word(seed_low),
        signed_word(seed_high),
        signed_word(int(rate * 2.0**32)),
        1 / (1 - rate),
        first_row,
        layer * heads,
    )
    number_bytes = (keys if group == 1 else query).element_size()
    sizes = {
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "BLOCK_DIM": block_dim,
        "TILE": _TILE[group > 1],
        "STAGES": _STAGES,
        "DROPOUT": dropout,
        "num_warps": _WARPS[group > 1, number_bytes][block_dim],
    }
    with torch.cuda.device_of(query):  # Triton launches on the current device
        require_fp8("keys", keys)
        if group == 1:
            _attend_single[(rows * kv_heads,)](*arguments, **sizes)
        else:
            block_group = max(16, triton.next_power_of_2(group))
            _attend_grouped[(rows * kv_heads,)](
                *arguments, GROUP=group, BLOCK_GROUP=block_group, **sizes
            )
    return out


@decode_attention.register_fake
def _(
    query, keys, values, lengths, scale, sequence_ids, rate, seed_low, seed_high, layer, first_row
):
    return torch.empty_like(query)


def decode_attention_bytes(
    query: torch.Tensor,  # [R, H, Dh]
    keys: torch.Tensor,  # [R, Hkv, T, Dh]
    lengths: torch.Tensor,  # [B]
) -> int:
    """Return the bytes that must move: the keys and values of each row up to its length, its query,
    its output, and the lengths. That is 2 Hkv Dh (sum of lengths over R rows) numbers of the
    cache's size, 2 R H Dh of the query's, and 8 B bytes. Copies the lengths to the host."""
    rows, kv_heads, _, head_dim = keys.shape
    entries = int(lengths.sum()) * (rows // len(lengths))
    return (
        2 * kv_heads * head_dim * entries * keys.element_size() + 2 * query.nbytes + lengths.nbytes
    )
