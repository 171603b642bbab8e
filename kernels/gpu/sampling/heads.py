"""BAD's logits as dot products of its hidden states and rows of its head.

b_v = h . W_v + bias_v, with products and sums in fp32. A row with a list needs them at its
plausible tokens only. For rows that the dense kernel finishes, all of them are computed first, as a
matrix product over the pending rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.precision import dot

ROWS_AT_ONCE = tl.constexpr(1024)  # whose status one load reads


@triton.jit
def dot_products(bad, row, tokens, wanted, BLOCK_D: tl.constexpr):
    """Return [N] float32: BAD's logits of [N] tokens, if wanted."""
    column = tl.arange(0, BLOCK_D)
    hidden = bad.hidden + row * bad.hidden_stride
    rows = bad.head + tokens.to(tl.int64)[:, None] * bad.head_stride
    sums = tl.zeros([tokens.shape[0], BLOCK_D], tl.float32)
    for start in range(0, bad.width, BLOCK_D):
        inside = start + column < bad.width
        h = tl.load(hidden + start + column, mask=inside, other=0.0).to(tl.float32)
        w = tl.load(
            rows + (start + column)[None, :], mask=wanted[:, None] & inside[None, :], other=0.0
        )
        sums += w.to(tl.float32) * h[None, :]
    b = tl.sum(sums, 1)
    if bad.bias is not None:
        b += tl.load(bad.bias + tokens, mask=wanted, other=0.0).to(tl.float32)
    return b


@triton.jit
def _span_of(status, value, rows):
    """Return the first row with this status, and the row after the last; `rows` and 0 if none has.

    In most launches none has, and every program finds that out: so many rows are read at once.
    """
    lane = tl.arange(0, ROWS_AT_ONCE)
    first, end = rows + tl.zeros_like(lane), tl.zeros_like(lane)
    for start in range(0, rows, ROWS_AT_ONCE):
        row = start + lane
        found = tl.load(status + row, mask=row < rows, other=0) == value
        first = tl.minimum(first, tl.where(found, row, rows))
        end = tl.maximum(end, tl.where(found, row + 1, 0))
    return tl.min(first, 0), tl.max(end, 0)


@triton.jit
def head_kernel(
    bad,  # Bad with a head
    rows,
    vocab,
    status,  # [B] uint8; None: every row is wanted
    pending,  # the status of wanted rows
    out,  # [B, V] float32: only wanted rows are written
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A fixed number of programs shares the tiles of tokens; each takes all wanted rows in turn."""
    lane, column = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    first, end = 0, rows
    if status is not None:
        first, end = _span_of(status, pending, rows)
    for first_row in range(first, end, ROWS):
        row = (first_row + lane).to(tl.int64)
        wanted = row < rows
        if status is not None:
            wanted &= tl.load(status + row, mask=wanted, other=0) == pending
        if tl.max(wanted.to(tl.int32), 0) > 0:
            for start in range(tl.program_id(0) * TOKENS, vocab, tl.num_programs(0) * TOKENS):
                token = start + tl.arange(0, TOKENS)
                head = bad.head + token.to(tl.int64)[None, :] * bad.head_stride
                hidden = bad.hidden + row[:, None] * bad.hidden_stride
                sums = tl.zeros([ROWS, TOKENS], tl.float32)
                for d in range(0, bad.width, BLOCK_D):
                    inside = d + column < bad.width
                    h = tl.load(
                        hidden + (d + column)[None, :],
                        mask=wanted[:, None] & inside[None, :],
                        other=0.0,
                    )
                    w = tl.load(
                        head + (d + column)[:, None],
                        mask=inside[:, None] & (token < vocab)[None, :],
                        other=0.0,
                    )
                    sums = dot(h, w, sums)
                if bad.bias is not None:
                    bias = tl.load(bad.bias + token, mask=token < vocab, other=0.0)
                    sums += bias.to(tl.float32)[None, :]
                at = out + row[:, None] * vocab + token[None, :]
                tl.store(at, sums, mask=wanted[:, None] & (token < vocab)[None, :])
