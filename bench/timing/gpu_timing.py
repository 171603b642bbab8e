"""Timing on the GPU: contenders take turns round after round, from CUDA graphs, with a cold L2.

A contender is a function that takes the index of an input set. One graph holds one call per set.
Before each replay a buffer of four times the L2 is read, so every call finds its inputs in device
memory, as a decode step does after attention has streamed gigabytes of cache. Reading leaves the L2
clean; writing would leave dirty lines whose write-back would count against the timed call. A sample
is the time of one replay divided by its calls. Gaps between the kernels of a graph count; the time
of the host does not.

A call that waits for the device cannot be captured. The host launches it between two events
instead, and the result says so.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cdgen.bench.timing.environment import median_ratio, microseconds, save_result

Call = Callable[[int], Any]  # takes the index of an input set

SAMPLE_S = 1e-3  # shortest sample, in seconds: its own launch is then a few thousandths of it
ROUNDS = 50
FEWEST_ROUNDS = 4  # also for the slowest contender
BUDGET_S = 0.2  # a contender with this many seconds of samples is not timed again
MOST_SETS = 16


def require_cuda() -> None:
    """Exit with code 2 on a machine without a CUDA device."""
    if not torch.cuda.is_available():
        print(f"{Path(sys.argv[0]).stem}: needs a CUDA device; there is none here", file=sys.stderr)
        raise SystemExit(2)


def percent_of(bandwidth: float, nbytes: int, us: float) -> float:
    """Return the rate of moving `nbytes` in `us` microseconds as a percentage of `bandwidth`, which
    is in bytes per second."""
    return round(100 * nbytes / (us * 1e-6) / bandwidth, 1)


def sets_that_fit(set_bytes: int, most_bytes: int = 6 * 2**30) -> int:
    """Return the number of input sets to make: MOST_SETS, or as many as fit into `most_bytes`."""
    return max(1, min(MOST_SETS, most_bytes // max(1, set_bytes)))


@dataclass
class Prepared:
    """A contender that is ready to be timed, with the results of its last launch.

    `results[i]` is the result for input set i: a tensor or a dataclass of tensors.
    """

    how: Literal["graph", "events"]
    results: list[Any]
    launch: Callable[[], None]  # all calls, one per result


class L2:
    """The GPU's L2 cache, which can be filled with data that no contender reads."""

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self.filler = torch.ones(size, dtype=torch.int32, device="cuda")  # four times the L2

    def chill(self) -> None:
        """Evict every contender's data. Reading twice the L2 would do; reading four times gives the
        host time to get ahead, so that the timed call does not wait for its launch."""
        self.filler.amax()


def elapsed_s(launch: Callable[[], object]) -> float:
    """Return the seconds on the device between two events around `launch`."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    launch()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3


def calls_per_sample(call_s: float, sets: int) -> int:
    """Return the number of calls that make a sample of SAMPLE_S. Each input set is used at most
    once, because a second call would find it in the L2."""
    return max(1, min(sets, math.ceil(SAMPLE_S / call_s)))


def prepare(call: Call, sets: int) -> Prepared:
    """Warm `call` up (compilation, library handles), capture it and replay it once.

    Raises whatever the call raises, `torch.OutOfMemoryError` included.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # capture requires a warm-up on a side stream
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
    poison(results)  # capture ran nothing, so the memory may still hold the warm-up's results
    graph.replay()
    torch.cuda.synchronize()
    return Prepared("graph", results, graph.replay)


def prepare_baselines(
    calls: dict[str, Call | str], sets: int
) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Return the baselines that run, and for each of the others the reason. A baseline that fails
    does not end the benchmark."""
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
    """Overwrite every result with NaN, -77 or 177, so that a check fails if it is not rewritten."""
    for result in results:
        for x in [result] if isinstance(result, torch.Tensor) else vars(result).values():
            x.fill_(float("nan") if x.is_floating_point() else -77 if x.dtype.is_signed else 177)


def waits_for_device(call: Call) -> bool:
    """Return whether `call` synchronises with the device.

    This must be known before the capture: a capture that fails leaves CUDA unable to capture again.
    """
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
    """Return a function that takes one sample: the seconds of one call of the contender."""

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
    """Return the samples of each contender. They take turns, so that a GPU that heats up slows all
    of them alike.

    A contender that has used `budget_s` seconds is not timed again, but never before FEWEST_ROUNDS.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sample in samplers.items():
            taken = samples[name]
            if len(taken) < FEWEST_ROUNDS or sum(taken) * calls[name] < budget_s:
                taken.append(sample())
    return samples


def time_in_turn(contenders: dict[str, Prepared], l2: L2) -> dict[str, list[float]]:
    """Return the samples of each contender, in seconds per call."""
    return in_turn(
        {name: sampler(prepared, l2) for name, prepared in contenders.items()},
        {name: len(prepared.results) for name, prepared in contenders.items()},
    )


def timings(contenders: dict[str, Prepared], samples: dict[str, list[float]]) -> dict[str, Any]:
    """Return each contender's microseconds and how they were measured, as a result records them."""
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
    nbytes: int,  # the least that one call must move
    bandwidth: float,
    l2: L2,
) -> dict[str, Any]:
    """Time the contenders in turn and return the fields that every GPU result has."""
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
    """Return the cells of an outcome, in the order of `COLUMNS`."""
    us, megabytes = found["us"]["triton"], round(found["bytes"] / 1e6, 2)
    others = ", ".join(f"{name} {ratio}" for name, ratio in found["over_triton"].items())
    percent = found["percent_of_copy_bandwidth"]
    return megabytes, us["p50"], us["p20"], us["p80"], percent, others


def command_line(
    description: str,
    name: str,
    measure: Callable[[], Iterator[dict[str, Any]]],  # the result so far, after every setting
    rows: Callable[[dict[str, Any]], Iterable[tuple[object, ...]]],  # headings first
) -> None:
    """Run a benchmark from the command line. A run that is cut short leaves what it measured."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    require_cuda()
    result: dict[str, Any] = {}
    for result in measure():
        save_result(name, result, args.out)
    print(table(rows(result)))


def copy_bandwidth(nbytes: int = 2 * 2**30) -> float:
    """Return the bytes per second of a large copy on the device, reads and writes both counted. It
    is the ceiling to which percentages refer."""
    source = torch.randint(2**31 - 1, (nbytes // 4,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    copy_s = statistics.median(elapsed_s(lambda: target.copy_(source)) for _ in range(20))
    return 2 * source.nbytes / copy_s


def table(rows: Iterable[tuple[object, ...]]) -> str:
    """Return the rows as text, each column padded to its widest cell."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
