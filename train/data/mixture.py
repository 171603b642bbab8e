"""The order of training sequences: real and synthetic text in exact shares, as a function of
position.

Training reads one row of sequences, n = 0, 1, 2, ...; step t of global batch size B reads n in [t
B, (t + 1) B), whatever the number of devices and of accumulation steps. Position n is synthetic if
floor(r (n + 1) + 1/2) > floor(r n + 1/2): error diffusion of the ratio r, so the number of
synthetic sequences among the first n never differs from r n by more than 1/2. The same rule,
nested, divides the synthetic ones among several corpora by weight: the i-th is within (i + 1) / 2
of its own share.

(Ulm et al. 2025 took int(16 r) of every micro-batch of 16: "30 %" was 25 %, "40 %" 37.5 %.)

The k-th sequence of a stream of N is entry k mod N of a permutation that is drawn from (seed,
stream, k div N). So every epoch of a stream has its own order, and a resume needs no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np

from cdgen.errors import UsageError


@dataclass(frozen=True)
class Share:
    """A stream of training sequences and its share of the training."""

    name: str
    share: Fraction
    blocks: int  # sequences in one epoch


class Mixture:
    """The assignment of positions to streams in exact shares, a pure function of (seed,
    position)."""

    def __init__(self, shares: Sequence[Share], seed: int) -> None:
        """Raise UsageError unless the shares add up to 1 and every stream has a sequence."""
        if sum(s.share for s in shares) != 1 or any(s.share < 0 for s in shares):
            found = ", ".join(f"{s.name} {s.share}" for s in shares)
            raise UsageError(f"shares: expected fractions that add up to 1, got {found}")
        if empty := [s.name for s in shares if s.share and not s.blocks]:
            raise UsageError(f"{', '.join(empty)}: holds not one whole training sequence")
        self.shares, self.seed = tuple(shares), seed
        # The part of what streams i, i + 1, ... get that goes to those after i.
        left = [sum((s.share for s in shares[i:]), Fraction(0)) for i in range(len(shares) + 1)]
        self._passed_on = [after / own if own else Fraction(0) for own, after in pairwise(left)]
        self._order = lru_cache(maxsize=2 * len(shares))(self._permutation)

    def at(self, position: int) -> tuple[int, int]:
        """Return (stream, its sequence) for a position."""
        stream, index = self.draw(position)
        epoch, place = divmod(index, self.shares[stream].blocks)
        return stream, int(self._order(stream, epoch)[place])

    def draw(self, position: int) -> tuple[int, int]:
        """Return (stream, k): the position is the stream's k-th, from 0."""
        for stream, passed_on in enumerate(self._passed_on):
            before, after = (_rounded(passed_on * n) for n in (position, position + 1))
            if after == before:
                return stream, position - before
            position = before
        raise AssertionError("the last stream passes nothing on")

    def counts(self, positions: int) -> list[int]:
        """Return how many of the first `positions` each stream gets."""
        found = []
        for passed_on in self._passed_on:
            after = _rounded(passed_on * positions)
            found.append(positions - after)
            positions = after
        return found

    def repeats(self, positions: int) -> dict[str, float]:
        """Return how many epochs of each stream are read in that many positions."""
        counts = zip(self.shares, self.counts(positions), strict=True)
        return {share.name: count / share.blocks for share, count in counts if share.blocks}

    def _permutation(self, stream: int, epoch: int) -> np.ndarray:  # [blocks] int64
        rng = np.random.default_rng([self.seed, stream, epoch])
        return rng.permutation(self.shares[stream].blocks)


def _rounded(x: Fraction) -> int:
    """Round to the nearest integer, halves up."""
    return (2 * x.numerator + x.denominator) // (2 * x.denominator)


def shares_of(
    ratio: Fraction, real: tuple[str, int], synthetic: Sequence[tuple[str, int, Fraction]]
) -> list[Share]:
    """Return the shares: real text (name, blocks) gets 1 - ratio, the corpora (name, blocks,
    weight) divide the ratio by weight. Raises UsageError for a ratio outside [0, 1)."""
    if not 0 <= ratio < 1:
        raise UsageError(f"ratio: expected a number from 0 to below 1, got {ratio}")
    total = sum((weight for *_, weight in synthetic), Fraction(0))
    if ratio and not total:
        raise UsageError(f"ratio: {ratio} of synthetic text is asked for, but no corpus is named")
    rest = [Share(name, ratio * weight / total, blocks) for name, blocks, weight in synthetic]
    return [Share(*real[:1], 1 - ratio, real[1]), *(share for share in rest if share.share)]
