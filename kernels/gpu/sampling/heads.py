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
def _any_has(status, value, rows):
    """Return whether a row has this status. Mostly none has, and every program finds that out: so
    many rows are read at once."""
    lane = tl.arange(0, ROWS_AT_ONCE)
    found = tl.zeros([ROWS_AT_ONCE], tl.int32)
    for start in range(0, rows, ROWS_AT_ONCE):
        here = tl.load(status + start + lane, mask=start + lane < rows, other=0)
        found |= (here == value).to(tl.int32)
    return tl.max(found, 0) > 0


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
    if status is not None:
        if not _any_has(status, pending, rows):
            return
    for first_row in range(0, rows, ROWS):
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
