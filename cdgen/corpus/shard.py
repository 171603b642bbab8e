"""A shard: the ranges that one process of several makes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Self

from cdgen.corpus.plan import Plan
from cdgen.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """Worker `index` of `count` takes every count-th range: those with r % count == index."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "I/N". Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not match or not int(match[1]) < int(match[2]):
            raise UsageError(
                f"--shard: expected I/N with I from 0 to N-1 (0/4 is the first of 4), got {text!r}"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, range_index: int) -> bool:
        return range_index % self.count == self.index

    def overlaps(self, other: Shard) -> bool:
        """Whether some range index belongs to both."""
        common = math.gcd(self.count, other.count)
        return self.index % common == other.index % common

    def ranges(self, plan: Plan) -> range:
        return range(self.index, plan.num_ranges, self.count)

    @property
    def label(self) -> str:
        """For file names."""
        return f"{self.index}-of-{self.count}"
