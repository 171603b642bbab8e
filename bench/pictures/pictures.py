"""The pictures of docs/benchmarks.md: which rows each of them shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cdgen.bench.pictures.bars import Bar, draw_bars
from cdgen.bench.pictures.row import Row

Rows = Sequence[Row]


class Picture(NamedTuple):
    name: str  # of its file, without an ending
    title: str
    caption: str
    draw: Callable[[Rows], bytes | None]  # None if no row of it was measured


def sampler_speed_up(rows: Rows) -> bytes | None:
    own = _of(rows, "cpu-sample-contrastive.json", "us")
    bars = [
        bar
        for native in own
        if native.provider == "native"
        for other in own
        if other.case == native.case and other.provider in ("reference", "pytorch", "amax")
        for bar in [_speed_up(native, other, f"against {other.provider}")]
    ]
    return _drawn(bars, "times as fast as the other", logarithmic=True, line=1)


def bad_kinds(rows: Rows) -> bytes | None:
    return _drawn(
        _ratios(_of(rows, "cpu-bad-kinds.json")), "rate relative to vanilla sampling", line=1
    )


def number_formats(rows: Rows) -> bytes | None:
    return _drawn(
        _ratios(_of(rows, "cpu-number-formats.json")),
        "rate relative to vanilla sampling in float32",
        line=1,
    )


def engines(rows: Rows) -> bytes | None:
    found = _of(rows, "cpu-engines.json")
    bars = [Bar(row.provider, row.shape, *_whisker(row)) for row in found]
    return _drawn(bars, "tokens per second")


def cpu_roofline(rows: Rows) -> bytes | None:
    """Draw the attention's bandwidth beside a plain read's, and the draw's time beside that of
    reading GOOD once."""
    bars = [
        Bar(f"attention, {row.shape}", "", *(100 * (row.ratio or 0),) * 3)
        for row in _of(rows, "cpu-decode-attention.json", "GB/s")
        if row.baseline
    ]
    draws = _of(rows, "cpu-sample-contrastive.json", "us")
    read = {row.case: row for row in draws if row.provider == "amax"}
    bars += [
        Bar(f"draw, {row.shape}", "", *(100 * row.times_better_than(read[row.case]),) * 3)
        for row in draws
        if row.provider == "native" and "alpha 0.1" in row.shape
    ]
    return _drawn(bars, "% of the rate at which a plain read gets the same bytes", line=100)


def counted(rows: Rows) -> bytes | None:
    found = _of(rows, "gpu-counted.json")
    kernels = {(row.op, row.shape, row.provider) for row in found if row.p50 >= 1}
    bars = [
        Bar(f"{row.op} {row.shape}".strip(), row.metric, *_whisker(row))
        for row in found
        if (row.op, row.shape, row.provider) in kernels
        and row.metric in ("issue bound", "dram bound")
    ]
    return _drawn(bars, "least time in us: counted by an emulator, not timed")


def gpu_speed_up(rows: Rows) -> bytes | None:
    timed = [row for row in rows if row.file.startswith("gpu-") and row.unit == "us"]
    triton = [row for row in timed if row.provider == "triton"]
    bars = [
        _speed_up(own, other, f"against {other.provider}")
        for own in triton
        for other in timed
        if other.case == own.case and other.provider != "triton"
    ]
    return _drawn(bars, "times as fast as the other", logarithmic=True, line=1)


def gpu_roofline(rows: Rows) -> bytes | None:
    found = [row for row in rows if row.file.startswith("gpu-") and row.baseline == "copy"]
    bars = [Bar(f"{row.op}, {row.shape}", "", *(100 * (row.ratio or 0),) * 3) for row in found]
    return _drawn(bars, "% of the bandwidth of a large copy", line=100)


PICTURES = (
    Picture(
        "sampler-speed-up",
        "One draw on a CPU",
        "The native kernel beside the eager reference, plain PyTorch with `multinomial`, and"
        " `good.amax(-1)`, which reads GOOD and does nothing else.",
        sampler_speed_up,
    ),
    Picture(
        "bad-kinds",
        "What a BAD costs",
        "Rate of the contrast by kind of BAD, relative to sampling from GOOD alone.",
        bad_kinds,
    ),
    Picture(
        "number-formats",
        "Number formats",
        "Kind of BAD, format of the weights, format of the cache; relative to vanilla sampling in"
        " float32.",
        number_formats,
    ),
    Picture(
        "engines",
        "Beside other engines",
        "Plain sampling from one GOOD; the rows of cdgen with a BAD contrast it. One round or two:"
        " take differences below a tenth for noise.",
        engines,
    ),
    Picture(
        "roofline-cpu",
        "How near to the roof, on a CPU",
        "Attention: bytes of the cache per second, beside a plain read of as many. Draw: the time"
        " to read GOOD's logits once, beside the whole draw.",
        cpu_roofline,
    ),
    Picture(
        "gpu-speed-up",
        "On a GPU",
        "The Triton kernels beside the other contenders of their runs: `make bench-gpu"
        " OUT=bench/results` on a machine with a GPU, then `make bench-pictures`.",
        gpu_speed_up,
    ),
    Picture(
        "roofline-gpu",
        "How near to the roof, on a GPU",
        "The bytes that must move, per second, beside those of a large copy.",
        gpu_roofline,
    ),
    Picture(
        "gpu-counted",
        "Counted in an emulator",
        "No time: the least that the counted instructions and memory sectors of the compiled"
        " kernels would take ([how](kernels.md#counted-not-timed)).",
        counted,
    ),
)


def _of(rows: Rows, file: str, unit: str = "") -> list[Row]:
    return [row for row in rows if row.file == file and unit in ("", row.unit)]


def _whisker(row: Row) -> tuple[float, float, float]:
    return row.p50, row.p20, row.p80


def _ratios(rows: Rows) -> Iterator[Bar]:
    """Yield a bar for each ratio to a baseline, with the spread of its own rate."""
    for row in rows:
        if row.ratio is not None:
            scale = row.ratio / row.p50
            ends = (row.ratio, scale * row.p20, scale * row.p80)
            yield Bar(f"{row.provider}, {row.shape}", row.shape, *ends)


def _speed_up(own: Row, other: Row, series: str) -> Bar:
    stated = own.ratio if other.provider == own.baseline else None
    value = stated or own.times_better_than(other)
    ends = min(value, other.p20 / own.p80), max(value, other.p80 / own.p20)
    return Bar(
        own.shape if own.file.startswith("cpu") else f"{own.op}, {own.shape}", series, value, *ends
    )


def _drawn(
    bars: Sequence[Bar] | Iterator[Bar],
    axis: str,
    *,
    logarithmic: bool = False,
    line: float | None = None,
) -> bytes | None:
    found = list(bars)
    return draw_bars(found, axis, logarithmic=logarithmic, line=line) if found else None
