"""A shard: the ranges that one of several processes makes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Self

from cdgen.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """Every count-th range, for worker `index` of `count`: those with r % count == index."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "I/N". Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not match or not int(match[1]) < int(match[2]):
            raise UsageError(
                f"--shard: expected I/N with I from 0 to N-1 (0/4 is the first of 4), got {text!r}"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def label(self) -> str:
        """The shard in file names."""
        return f"{self.index}-of-{self.count}"

    def owns(self, range_index: int) -> bool:
        return range_index % self.count == self.index

    def overlaps(self, other: Shard) -> bool:
        """Return whether some range belongs to both shards."""
        common = math.gcd(self.count, other.count)
        return self.index % common == other.index % common

    def ranges(self, num_ranges: int) -> range:
        """Return the shard's ranges among the first `num_ranges`."""
        return range(self.index, num_ranges, self.count)
