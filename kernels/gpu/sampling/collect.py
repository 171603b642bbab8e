"""First half of a draw: the plausible tokens of a row, from one pass over GOOD's logits.

P = { v : g_v >= max g + ln(alpha) } is known only when the pass ends, and a second pass would
double the traffic. So the first one keeps, beside the maximum, where P can be: lane i of a program
keeps the maximum of its own logits, g[i], g[BLOCK + i], g[2 BLOCK + i], ... A plausible token lies
in a lane whose maximum is plausible, and there are no more such lanes than plausible tokens. Only
the few logits of those lanes are read again, from cache, and tested; four lanes at a time, because
they lie in one sector of memory.
A row that is split over programs keeps the maxima of its parts instead of its lanes'.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Tiles start at multiples of so many logits, wherever the row starts: rows of an odd length, such
# as GPT-2's 50257, are read 16 bytes at a time like any other.
ALIGNED = tl.constexpr(16)
GROUP = tl.constexpr(4)  # lanes that are read again together
NEVER = tl.constexpr(float("-inf"))


@triton.jit
def lane_maxima(
    good,  # logits; their storage is 16-byte aligned
    first,  # int64: index of the first logit
    count,  # how many, side by side
    BLOCK: tl.constexpr,
):
    """[BLOCK] maxima of the lanes, +inf where a logit is NaN; and by how many logits the first
    tile starts before `first`."""
    lane = tl.arange(0, BLOCK)
    early = (first % ALIGNED).to(tl.int32)
    tile = good + tl.multiple_of(first - early, ALIGNED) + lane
    end = early + count
    whole = end // BLOCK
    top = tl.full([BLOCK], NEVER, tl.float32)
    if early > 0:
        x = tl.load(tile, mask=(lane >= early) & (lane < end), other=NEVER).to(tl.float32)
        top = x
    # Several tiles are on their way at once, for no step waits for another.
    begin = tl.where(early > 0, BLOCK, 0)
    for start in tl.range(begin, whole * BLOCK, BLOCK, loop_unroll_factor=4):
        x = tl.load(tile + start).to(tl.float32)
        top = tl.maximum(top, x, propagate_nan=tl.PropagateNan.ALL)
    last = tl.maximum(whole, early > 0) * BLOCK
    x = tl.load(tile + last, mask=last + lane < end, other=NEVER).to(tl.float32)
    top = tl.maximum(top, x, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(top != top, float("inf"), top), early


@triton.jit
def append(items, wanted, count, out, CAPACITY: tl.constexpr):
    """Writes the wanted items behind the `count` that are there; returns the new count, which goes
    on where the list is full."""
    place = count + tl.cumsum(wanted.to(tl.int32), 0) - 1
    tl.store(out + place, items, mask=wanted & (place < CAPACITY))
    return count + tl.sum(wanted.to(tl.int32), 0)


@triton.jit
def collect_row(good, first, vocab, log_alpha, groups, tokens, CAPACITY: tl.constexpr,
                BLOCK: tl.constexpr, GATHER: tl.constexpr):  # fmt: skip
    """The row's maximum (+inf: some logit is NaN or +inf) and the size of its plausible set, whose
    ids lie in `tokens`, ascending, as far as CAPACITY goes. `groups` is [BLOCK / 4] scratch."""
    tops, early = lane_maxima(good, first, vocab, BLOCK)
    top = tl.max(tops, 0)
    threshold = top + log_alpha
    count = tl.zeros([], tl.int32)
    if (top > NEVER) & (top < float("inf")):
        group_tops = tl.max(tl.reshape(tops, [BLOCK // GROUP, GROUP]), 1)
        plausible = (group_tops >= threshold) & (group_tops > NEVER)
        found = append(tl.arange(0, BLOCK // GROUP), plausible, count, groups, BLOCK // GROUP)
        tl.debug_barrier()  # each thread wrote a part of the list and reads another
        per_tile = found * GROUP
        total = per_tile * tl.cdiv(early + vocab, BLOCK)
        start = tl.zeros([], tl.int32)
        while (start < total) & (count <= CAPACITY):
            at = start + tl.arange(0, GATHER)  # ascending in the token's id
            group = tl.load(groups + at % per_tile // GROUP, mask=at < total, other=0)
            token = at // per_tile * BLOCK + group * GROUP + at % GROUP - early
            inside = (at < total) & (token >= 0) & (token < vocab)
            x = tl.load(good + first + token, mask=inside, other=NEVER).to(tl.float32)
            wanted = (x >= threshold) & (x > NEVER)
            count = append(token, wanted, count, tokens, CAPACITY)
            start += GATHER
    return top, count


@triton.jit
def collect_parts(good, first, vocab, log_alpha, part_tops, tokens, CAPACITY: tl.constexpr,
                  SPLITS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """`collect_row` from the maxima of the row's parts: those with a plausible one are read."""
    top = tl.max(tl.load(part_tops + tl.arange(0, SPLITS)), 0)
    threshold = top + log_alpha
    count = tl.zeros([], tl.int32)
    span = tl.cdiv(vocab, SPLITS)
    for part in range(0, SPLITS):
        part_top = tl.load(part_tops + part)
        if (part_top >= threshold) & (part_top > NEVER) & (top < float("inf")):
            end = tl.minimum((part + 1) * span, vocab)
            for start in range(part * span, end, BLOCK):
                token = start + tl.arange(0, BLOCK)
                x = tl.load(good + first + token, mask=token < end, other=NEVER).to(tl.float32)
                wanted = (x >= threshold) & (x > NEVER)
                count = append(token, wanted, count, tokens, CAPACITY)
    return top, count
