"""Times calls on the GPU in turn, round after round: from CUDA graphs, with a cold L2.

A contender is a function of the number of an input set. One graph holds a call per set, and before
a replay four times the L2 is read, so every call finds its inputs in device memory, as a decode
step does after its attention has streamed gigabytes of cache. Reading leaves the L2 clean; clearing
a buffer would leave it full of lines whose write-back is billed to what is timed. A sample is one
replay divided by its calls. Launch gaps between the kernels of a graph count; the host does not.

What waits for the device cannot be captured. The host launches it between two events instead, and
its result says so.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cdgen.bench.timing.environment import median_ratio, microseconds, write_result

Call = Callable[[int], Any]  # takes the number of an input set

SAMPLE_S = (
    1e-3  # about how long one sample takes at least, so that its own launch is a few per mille
)
ROUNDS = 50
FEWEST_ROUNDS = 4  # however slow a contender is
BUDGET_S = 0.2  # after so many seconds of samples a contender sits out
MOST_SETS = 16


def require_cuda() -> None:
    """Exits with 2 on a machine where nothing can be timed."""
    if not torch.cuda.is_available():
        print(f"{Path(sys.argv[0]).stem}: needs a CUDA device; there is none here", file=sys.stderr)
        raise SystemExit(2)


def percent_of(bandwidth: float, nbytes: int, us: float) -> float:
    """What moving `nbytes` in `us` microseconds is of a bandwidth in bytes per second."""
    return round(100 * nbytes / (us * 1e-6) / bandwidth, 1)


def sets_that_fit(set_bytes: int, most_bytes: int = 6 * 2**30) -> int:
    """How many input sets to make: as many as a graph may want, within `most_bytes`."""
    return max(1, min(MOST_SETS, most_bytes // max(1, set_bytes)))


@dataclass
class Prepared:
    """A contender that is ready to be timed, and what its calls returned.

    `results[i]`, a tensor or a dataclass of tensors, is what the last launch made of input set i.
    """

    how: Literal["graph", "events"]
    results: list[Any]
    launch: Callable[[], None]  # all calls, one per result


class L2:
    def __init__(self) -> None:
        size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self.stranger = torch.ones(size, dtype=torch.int32, device="cuda")  # four times the L2

    def chill(self) -> None:
        """Fills the cache with what no contender reads. Twice the L2 would do; four times leaves
        the host time to get ahead, so that what is timed after it does not wait for its launch."""
        self.stranger.amax()


def elapsed_s(launch: Callable[[], object]) -> float:
    """Seconds on the device between two events around `launch`."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    launch()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


def calls_per_sample(call_s: float, sets: int) -> int:
    """Enough for a sample, one per input set at most: a second one would find it in the L2."""
    return max(1, min(sets, math.ceil(SAMPLE_S / call_s)))


def prepare(call: Call, sets: int) -> Prepared:
    """Warms `call` up (compilation, handles), captures it and replays it once.

    What a call raises, `torch.OutOfMemoryError` included, goes to the caller."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as capturing asks for
        call(0)
        call_s = statistics.median(elapsed_s(lambda: call(0)) for _ in range(3))
        waits = waits_for_device(call)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    count = calls_per_sample(call_s, sets)
    if waits:
        return _launched_by_host(call, count)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [call(i) for i in range(count)]
    poison(results)  # capturing ran nothing: what is there may be the warm-up's
    graph.replay()
    torch.cuda.synchronize()
    return Prepared("graph", results, graph.replay)


def prepare_baselines(
    calls: dict[str, Call | str], sets: int
) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Those that run, and of the others why not: a baseline that fails stops nothing."""
    prepared: dict[str, Prepared] = {}
    skipped: dict[str, str] = {}
    for name, call in calls.items():
        if isinstance(call, str):
            skipped[name] = call
            continue
        try:
            prepared[name] = prepare(call, sets)
        except torch.OutOfMemoryError:
            skipped[name] = "skipped: out of memory"
        except Exception as error:
            skipped[name] = f"failed: {type(error).__name__}: {error}"[:200]
    return prepared, skipped


def poison(results: list[Any]) -> None:
    """Overwrites every result with NaN, -77 or 177, so that what is not written again shows."""
    for result in results:
        for x in [result] if isinstance(result, torch.Tensor) else vars(result).values():
            x.fill_(float("nan") if x.is_floating_point() else -77 if x.dtype.is_signed else 177)


def waits_for_device(call: Call) -> bool:
    """Found out beforehand, because a capture that fails leaves the process unfit for another."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(0)
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def _launched_by_host(call: Call, count: int) -> Prepared:
    results = [call(i) for i in range(count)]

    def launch() -> None:
        for i in range(count):
            results[i] = call(i)

    return Prepared("events", results, launch)


def sampler(prepared: Prepared, l2: L2) -> Callable[[], float]:
    """One sample per call of it: seconds per call of the contender."""

    def sample() -> float:
        l2.chill()
        return elapsed_s(prepared.launch) / len(prepared.results)

    return sample


def in_turn(
    samplers: dict[str, Callable[[], float]],
    calls: dict[str, int],  # per sample
    rounds: int = ROUNDS,
    budget_s: float = BUDGET_S,
) -> dict[str, list[float]]:
    """Samples by contender, who take turns, so that a GPU that grows hot grows hot for all.

    Who has used up `budget_s` sits out, but not before `FEWEST_ROUNDS`.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sample in samplers.items():
            taken = samples[name]
            if len(taken) < FEWEST_ROUNDS or sum(taken) * calls[name] < budget_s:
                taken.append(sample())
    return samples


def time_in_turn(contenders: dict[str, Prepared], l2: L2) -> dict[str, list[float]]:
    """Seconds per call: samples by contender."""
    return in_turn(
        {name: sampler(prepared, l2) for name, prepared in contenders.items()},
        {name: len(prepared.results) for name, prepared in contenders.items()},
    )


def timings(contenders: dict[str, Prepared], samples: dict[str, list[float]]) -> dict[str, Any]:
    """What a result says of each contender: microseconds, and how they were taken."""
    return {
        name: {
            **microseconds(samples[name]),
            "how": prepared.how,
            "calls_per_sample": len(prepared.results),
            "samples": len(samples[name]),
        }
        for name, prepared in contenders.items()
    }


def outcome(
    contenders: dict[str, Prepared],  # "triton" among them
    skipped: dict[str, str],
    nbytes: int,  # that one call must move
    bandwidth: float,
    l2: L2,
) -> dict[str, Any]:
    """Times the contenders in turn; what every GPU result holds."""
    samples = time_in_turn(contenders, l2)
    us, others = timings(contenders, samples), [name for name in contenders if name != "triton"]
    return {
        "bytes": nbytes,
        "percent_of_copy_bandwidth": percent_of(bandwidth, nbytes, us["triton"]["p50"]),
        "us": us,
        "over_triton": {name: median_ratio(samples[name], samples["triton"]) for name in others},
        "skipped": skipped,
    }


COLUMNS = ("MB", "us", "p20", "p80", "% copy", "times slower")


def cells(found: dict[str, Any]) -> tuple[object, ...]:
    """An outcome under `COLUMNS`."""
    us, megabytes = found["us"]["triton"], round(found["bytes"] / 1e6, 2)
    others = ", ".join(f"{name} {ratio}" for name, ratio in found["over_triton"].items())
    percent = found["percent_of_copy_bandwidth"]
    return megabytes, us["p50"], us["p20"], us["p80"], percent, others


def command_line(
    description: str,
    name: str,
    measure: Callable[[], dict[str, Any]],
    rows: Callable[[dict[str, Any]], Iterable[tuple[object, ...]]],  # headings first
) -> None:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    require_cuda()
    result = measure()
    write_result(name, result, args.out)
    print(table(rows(result)))


def copy_bandwidth(nbytes: int = 2 * 2**30) -> float:
    """Bytes per second, read and written both counted, of a large copy on the device: the ceiling
    that percentages refer to."""
    source = torch.randint(2**31 - 1, (nbytes // 4,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    copy_s = statistics.median(elapsed_s(lambda: target.copy_(source)) for _ in range(20))
    return 2 * source.nbytes / copy_s


def table(rows: Iterable[tuple[object, ...]]) -> str:
    """Columns padded to their widest cell."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
