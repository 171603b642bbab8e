"""Which sequence comes when: real and synthetic text in exact shares, as a function of position.

Training reads one row of sequences, n = 0, 1, 2, ...; step t of global batch size B reads n in
[t B, (t + 1) B), whatever the number of devices and of accumulation steps. Position n is synthetic
where floor(r (n + 1) + 1/2) > floor(r n + 1/2): error diffusion of the ratio r, so the number of
synthetic sequences among the first n is never more than 1/2 from r n. The same rule, nested,
divides the synthetic ones among several corpora by weight: the i-th is within (i + 1) / 2 of its
own share.

(Ulm et al. 2025 took int(16 r) of every micro-batch of 16: "30 %" was 25 %, "40 %" 37.5 %.)

The k-th sequence of a stream of N is entry k mod N of a permutation that is drawn from (seed,
stream, k div N): every epoch of a stream has its own order, and a resume has nothing to remember.
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
    """A stream of training sequences and how much of the training it makes up."""

    name: str
    share: Fraction
    blocks: int  # sequences in one epoch of it


class Mixture:
    """Deals positions out to streams in exact shares; pure in (seed, position)."""

    def __init__(self, shares: Sequence[Share], seed: int) -> None:
        """Raises UsageError unless the shares add up to 1 and every stream has a sequence."""
        if sum(s.share for s in shares) != 1 or any(s.share < 0 for s in shares):
            found = ", ".join(f"{s.name} {s.share}" for s in shares)
            raise UsageError(f"shares: expected fractions that add up to 1, got {found}")
        if empty := [s.name for s in shares if s.share and not s.blocks]:
            raise UsageError(f"{', '.join(empty)}: holds not one whole training sequence")
        self.shares, self.seed = tuple(shares), seed
        # Of what is left to stream i and those after it, the part that goes to those after it.
        left = [sum((s.share for s in shares[i:]), Fraction(0)) for i in range(len(shares) + 1)]
        self._passed_on = [after / own if own else Fraction(0) for own, after in pairwise(left)]
        self._order = lru_cache(maxsize=2 * len(shares))(self._permutation)

    def at(self, position: int) -> tuple[int, int]:
        """(stream, its sequence) of a position."""
        stream, index = self.draw(position)
        epoch, place = divmod(index, self.shares[stream].blocks)
        return stream, int(self._order(stream, epoch)[place])

    def draw(self, position: int) -> tuple[int, int]:
        """(stream, k): the position is the k-th that the stream gets, from 0."""
        for stream, passed_on in enumerate(self._passed_on):
            before, after = (_rounded(passed_on * n) for n in (position, position + 1))
            if after == before:
                return stream, position - before
            position = before
        raise AssertionError("the last stream passes nothing on")

    def counts(self, positions: int) -> list[int]:
        """How many of the first `positions` each stream gets."""
        found = []
        for passed_on in self._passed_on:
            after = _rounded(passed_on * positions)
            found.append(positions - after)
            positions = after
        return found

    def repeats(self, positions: int) -> dict[str, float]:
        """How often each stream is read in that many positions, in epochs."""
        counts = zip(self.shares, self.counts(positions), strict=True)
        return {share.name: count / share.blocks for share, count in counts if share.blocks}

    def _permutation(self, stream: int, epoch: int) -> np.ndarray:  # [blocks] int64
        rng = np.random.default_rng([self.seed, stream, epoch])
        return rng.permutation(self.shares[stream].blocks)


def _rounded(x: Fraction) -> int:
    """To the nearest whole number, halves up."""
    return (2 * x.numerator + x.denominator) // (2 * x.denominator)


def shares_of(
    ratio: Fraction, real: tuple[str, int], synthetic: Sequence[tuple[str, int, Fraction]]
) -> list[Share]:
    """Real text (name, blocks) at 1 - ratio; corpora (name, blocks, weight) share the ratio by
    weight. Raises UsageError for a ratio outside [0, 1)."""
    if not 0 <= ratio < 1:
        raise UsageError(f"ratio: expected a number from 0 to below 1, got {ratio}")
    total = sum((weight for *_, weight in synthetic), Fraction(0))
    if ratio and not total:
        raise UsageError(f"ratio: {ratio} of synthetic text is asked for, but no corpus is named")
    rest = [Share(name, ratio * weight / total, blocks) for name, blocks, weight in synthetic]
    return [Share(*real[:1], 1 - ratio, real[1]), *(share for share in rest if share.share)]
