"""One row of the results format: who took how long for what, on which machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

# Units of which more is better; of all others, less is.
_RATES = ("tokens/s", "GB/s")


@dataclass(frozen=True)
class Spread:
    """The percentiles of repeated measurements. One that was made once has the same three."""

    p20: float
    p50: float
    p80: float

    @property
    def relative(self) -> float:
        """Half the distance from p20 to p80, as a share of the median."""
        return (self.p80 - self.p20) / 2 / self.p50


@dataclass(frozen=True)
class Row:
    """The fields are the columns of the table, in this order."""

    op: str  # what was done
    provider: str  # what did it
    shape: str  # the sizes and settings, "" if there is one only
    dtype: str
    metric: str  # time, rate, memory, divergence, ...
    unit: str
    p20: float
    p50: float
    p80: float
    baseline: str  # the provider in the same run that this one is compared with, "" if none
    ratio: float | None  # how many times better than the baseline; the median over the rounds
    file: str  # in bench/results
    hardware: str
    versions: str
    commit: str

    @property
    def case(self) -> tuple[str, str, str, str]:
        """What a row shares with the rows that it is compared with in its run."""
        return self.file, self.op, self.shape, self.unit

    @property
    def spread(self) -> Spread:
        return Spread(self.p20, self.p50, self.p80)

    def times_better_than(self, other: Row) -> float:
        """Return the ratio of two medians in one unit, above 1 if this row is the better one."""
        ratio = self.p50 / other.p50
        return ratio if self.unit in _RATES else 1 / ratio


@dataclass(frozen=True)
class Run:
    """What all rows of one results file share."""

    file: str
    hardware: str
    versions: str
    commit: str

    def row(
        self,
        op: str,
        provider: str,
        spread: Spread,
        unit: str,
        *,
        shape: str = "",
        dtype: str = "float32",
        metric: str = "time",
        baseline: str = "",
        ratio: float | None = None,
    ) -> Row:
        return Row(
            op,
            provider,
            shape,
            dtype,
            metric,
            unit,
            *(spread.p20, spread.p50, spread.p80),
            baseline,
            ratio,
            *(self.file, self.hardware, self.versions, self.commit),
        )


def run_of(file: str, environment: Mapping[str, Any]) -> Run:
    """Return the machine, versions and commit of a results file."""
    hardware = environment.get("gpu") or environment["processor"]
    if isinstance(hardware, Mapping):
        hardware = hardware["name"]
    threads = "" if environment.get("gpu") else f", {environment['threads']} threads"
    kernels = f", {environment['kernels']}" if environment.get("kernels") else ""
    versions = " ".join(f"{name} {number}" for name, number in environment["versions"].items())
    return Run(file, f"{hardware}{threads}{kernels}", versions, environment["commit"])


def once(number: float) -> Spread:
    return Spread(number, number, number)


def spread_of(samples: Sequence[float]) -> Spread:
    """Return the percentiles of samples; the extremes in place of p20 and p80 below five."""
    if len(samples) < 5:
        return Spread(min(samples), median(samples), max(samples))
    p20, _, _, p80 = quantiles(samples, n=5)
    return Spread(p20, median(samples), p80)


def rates(work: float, seconds: Sequence[float]) -> Spread:
    """Return units of work per second from the seconds of repeated runs."""
    return spread_of([work / one for one in seconds])


def baselines(rows: Sequence[Row]) -> dict[Row, Row]:
    """Return the baseline of each row that has one."""
    found = {(row.case, row.provider): row for row in rows}
    return {row: found[row.case, row.baseline] for row in rows if row.baseline}


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Return the rows; a ratio that the file does not state is that of the medians."""
    against = baselines(rows)
    return [
        replace(row, ratio=round(row.times_better_than(against[row]), 2))
        if row.baseline and row.ratio is None
        else row
        for row in rows
    ]
