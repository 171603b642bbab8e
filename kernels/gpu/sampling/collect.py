"""The first half of a draw: the plausible tokens of a row, from one pass over GOOD's logits.

P = { v : g_v >= max g + ln(alpha) } is known only when the pass ends, and a second pass would
double the traffic. So the pass keeps, beside the maximum, where P can be: lane i of a program keeps
the maximum of its own logits, g[i], g[BLOCK + i], g[2 BLOCK + i], ... A plausible token lies in a
lane whose maximum is plausible, and there are no more such lanes than plausible tokens. Only the
few logits of those lanes are read again, from cache, and tested; four lanes at a time, because they
lie in one sector of memory.

A row that is split over several programs keeps the maximum of each part instead of each lane.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cdgen.kernels.gpu.sampling.types import NEVER

# Tiles start at multiples of this many logits, wherever the row starts, so rows of an odd length,
# such as GPT-2's 50257, are read 16 bytes at a time as well.
ALIGNED = tl.constexpr(16)
GROUP = tl.constexpr(4)  # lanes that are read again together


@triton.jit
def lane_maxima(
    good,  # logits; their storage is 16-byte aligned
    first,  # int64: index of the first logit
    count,  # number of consecutive logits
    BLOCK: tl.constexpr,
):
    """Return the [BLOCK] maxima of the lanes, +inf if a logit is NaN, and the number of logits by
    which the first tile starts before `first`."""
    lane = tl.arange(0, BLOCK)
    early = (first % ALIGNED).to(tl.int32)
    tile = good + tl.multiple_of(first - early, ALIGNED) + lane
    end = early + count
    whole = end // BLOCK
    maximum = tl.full([BLOCK], NEVER, tl.float32)
    if early > 0:
        x = tl.load(tile, mask=(lane >= early) & (lane < end), other=NEVER).to(tl.float32)
        maximum = x
    # Several tiles are loaded at once, because no step waits for another. The loop must not start
    # past its end: Triton's unroller divides their difference as an unsigned number.
    begin = tl.minimum(tl.where(early > 0, BLOCK, 0), whole * BLOCK)
    for start in tl.range(begin, whole * BLOCK, BLOCK, loop_unroll_factor=4):
        x = tl.load(tile + start).to(tl.float32)
        maximum = tl.maximum(maximum, x, propagate_nan=tl.PropagateNan.ALL)
    last = tl.maximum(whole, early > 0) * BLOCK
    x = tl.load(tile + last, mask=last + lane < end, other=NEVER).to(tl.float32)
    maximum = tl.maximum(maximum, x, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(maximum != maximum, float("inf"), maximum), early


@triton.jit
def append(items, wanted, count, out, CAPACITY: tl.constexpr):
    """Write the wanted items after the `count` that are there. Return the new count, which also
    counts items that no longer fit."""
    place = count + tl.cumsum(wanted.to(tl.int32), 0) - 1
    tl.store(out + place, items, mask=wanted & (place < CAPACITY))
    return count + tl.sum(wanted.to(tl.int32), 0)


@triton.jit
def collect_row(
    good,
    first,
    vocab,
    log_alpha,
    groups,
    tokens,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
    GATHER: tl.constexpr,
):
    """Return the row's maximum (+inf if a logit is NaN or +inf) and the size of its plausible set.
    Its ids are written to `tokens`, ascending, up to CAPACITY. `groups` is [BLOCK / 4] scratch."""
    lane_max, early = lane_maxima(good, first, vocab, BLOCK)
    maximum = tl.max(lane_max, 0)
    threshold = maximum + log_alpha
    count = tl.zeros([], tl.int32)
    if (maximum > NEVER) & (maximum < float("inf")):
        group_max = tl.max(tl.reshape(lane_max, [BLOCK // GROUP, GROUP]), 1)
        plausible = (group_max >= threshold) & (group_max > NEVER)
        found = append(tl.arange(0, BLOCK // GROUP), plausible, count, groups, BLOCK // GROUP)
        tl.debug_barrier()  # each thread reads parts of the list that others wrote
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
    return maximum, count


@triton.jit
def collect_parts(
    good,
    first,
    vocab,
    log_alpha,
    part_max,
    tokens,
    CAPACITY: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Do the same as `collect_row`, given the maxima of the row's parts: only parts with a
    plausible maximum are read."""
    maximum = tl.max(tl.load(part_max + tl.arange(0, SPLITS)), 0)
    threshold = maximum + log_alpha
    count = tl.zeros([], tl.int32)
    span = tl.cdiv(vocab, SPLITS)
    for part in range(0, SPLITS):
        this_max = tl.load(part_max + part)
        if (this_max >= threshold) & (this_max > NEVER) & (maximum < float("inf")):
            end = tl.minimum((part + 1) * span, vocab)
            for start in range(part * span, end, BLOCK):
                token = start + tl.arange(0, BLOCK)
                x = tl.load(good + first + token, mask=token < end, other=NEVER).to(tl.float32)
                wanted = (x >= threshold) & (x > NEVER)
                count = append(token, wanted, count, tokens, CAPACITY)
    return maximum, count
