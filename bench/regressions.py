"""Compare new results with the committed ones by their ratios to the baseline of the same run.

    python -m cdgen.bench.regressions NEW [--committed bench/results]

Times of two machines, or of two hours on one, cannot be compared. The ratio of two contenders that
took turns in one run can: what slows the machine slows both. A ratio r with the medians a and b has
the relative spread sqrt(spread(a)^2 + spread(b)^2), spread being half of p80 - p20 over the median.
A row is a regression if its new ratio is below (1 - margin) times the committed one, with

    margin = 0.10 + sqrt(spread(new)^2 + spread(committed)^2)

The exit code is 1 if there is one, and 2 if nothing could be compared. A number that was measured
once has no spread, which is why a tenth is allowed in any case.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdgen.bench.pictures.bars import shortened
from cdgen.bench.pictures.result_files import read_folder
from cdgen.bench.pictures.row import Row, baselines
from cdgen.errors import CdgenError, UsageError

ALLOWED = 0.10

Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A row that both folders have."""

    row: Row  # the new one
    before: float  # the committed ratio
    after: float
    margin: float

    @property
    def is_regression(self) -> bool:
        return self.after < (1 - self.margin) * self.before

    def __str__(self) -> str:
        place = ", ".join(filter(None, (self.row.file, self.row.op, self.row.shape)))
        verdict = "REGRESSION" if self.is_regression else "ok"
        return (
            f"{verdict:10}  {shortened(self.before)} -> {shortened(self.after)} times"
            f" {self.row.baseline} (margin {self.margin:.0%})  {self.row.provider}: {place}"
        )


def changes(committed: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """Return the change of every ratio that both have. Raises UsageError if there is none."""
    before, after = _ratios(committed), _ratios(new)
    found = [_change(before[key], after[key]) for key in after if key in before]
    if not found:
        raise UsageError("no row with a ratio is in both folders, so nothing was compared")
    return found


def _ratios(rows: Sequence[Row]) -> Mapping[Key, tuple[Row, Row]]:
    """Return each row with a ratio, and its baseline, by what identifies it in every run."""
    return {
        (*row.case, row.provider, row.dtype, row.baseline): (row, baseline)
        for row, baseline in baselines(rows).items()
    }


def _change(before: tuple[Row, Row], after: tuple[Row, Row]) -> Change:
    spreads = [row.spread.relative for row in (*before, *after)]
    assert before[0].ratio is not None and after[0].ratio is not None
    return Change(after[0], before[0].ratio, after[0].ratio, ALLOWED + math.hypot(*spreads))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("new", type=Path, help="folder of new results files")
    parser.add_argument("--committed", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    try:
        found = changes(read_folder(args.committed), read_folder(args.new))
    except CdgenError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for change in found:
        print(change)
    worse = sum(change.is_regression for change in found)
    print(f"{len(found)} ratios compared, {worse} regressions")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
