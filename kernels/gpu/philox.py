"""Counter-based Gumbel noise, equal to that of `reference.random_words` number for number.

Token v of one draw takes word v & 3 of Philox4x32-10 (Salmon et al. 2011) with the run seed as key
and the counter (v >> 2, position, sequence lo, sequence hi). With x that word,

    u = min((x + 1/2) 2^-32, 1 - 2^-24),  E = -log1p(-u),  gumbel = -log E,

so that fp32 resolves the noise that wins, at small E.
"""

from __future__ import annotations

import triton
import triton.language as tl


def signed_word(word: int) -> int:
    """Return the low 32 bits of `word` as an int32, because kernel arguments are signed."""
    return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


@triton.jit
def _philox_round(c0, c1, c2, c3, k0, k1):
    # One wide product has both halves; `tl.philox` takes two products for them.
    p0 = c0.to(tl.uint64) * tl.full([], 0xD2511F53, tl.uint64)
    p1 = c2.to(tl.uint64) * tl.full([], 0xCD9E8D57, tl.uint64)
    high0, high1 = (p0 >> 32).to(tl.uint32), (p1 >> 32).to(tl.uint32)
    return high1 ^ c1 ^ k0, p1.to(tl.uint32), high0 ^ c3 ^ k1, p0.to(tl.uint32)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Return the four uint32 words of Philox4x32-10 with counter c and key k, each uint32."""
    for _ in tl.static_range(10):
        c0, c1, c2, c3 = _philox_round(c0, c1, c2, c3, k0, k1)
        k0 += tl.full([], 0x9E3779B9, tl.uint32)
        k1 += tl.full([], 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def philox_words(blocks, noise):
    """Return the four words of each block of four token ids. `noise` is (position, sequence, seed
    low, seed high), with the seed as two int32 bit patterns."""
    position, sequence, seed_low, seed_high = noise
    zero = tl.zeros_like(blocks).to(tl.uint32)
    return philox4x32(
        blocks.to(tl.uint32),
        zero + position.to(tl.uint32),
        zero + sequence.to(tl.uint32),
        zero + (sequence >> 32).to(tl.uint32),
        seed_low.to(tl.uint32, bitcast=True),
        seed_high.to(tl.uint32, bitcast=True),
    )


@triton.jit
def in_token_order(w0, w1, w2, w3):
    """Arrange the words of consecutive blocks by token id: id v takes word v & 3."""
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def token_words(tokens, noise):
    """Return the word of each token id, in any order."""
    w0, w1, w2, w3 = philox_words(tokens >> 2, noise)
    word = tokens & 3
    return tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))


@triton.jit
def gumbel(words):
    """Return fp32 noise between -2.9 and 22.9."""
    u = tl.minimum((words.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.9999999403953552)
    # log1p(-u) = log(w) u / (1 - w) with w = fp32(1 - u): the factor compensates the rounding of w.
    # If w rounds to 1, log1p(-u) = -u to the last bit.
    w = 1.0 - u
    rounded = 1.0 - w
    e = tl.where(rounded == 0, u, -tl.log(w) * u / tl.where(rounded == 0, 1.0, rounded))
    return -tl.log(e)
