"""Generation on a GPU: the decode step against its roofline, numbers of slots, and transformers.

    python -m cdgen.bench.end_to_end.bench_gpu_generate --out OUT/gpu-generate.json

The pair has the paper's shape (Ulm et al. 2025): two Llamas of 12 layers, width 768, vocabulary
32,000, 20 prompt tokens, 400 new ones, random weights whose heads are scaled until 5 to 30 tokens
are plausible. The parts are

    step      one step at full slots and the mean context, and the share of the bound that
              bench/bounds/roofline.py gives for this card's own copy bandwidth
    parts     the launches of a step and the time of its kernels by kind, from the profiler; `gaps`
              is the rest
    steady    tokens per second of the whole engine, slots refilled, for `--seconds` at 1024 slots
              and a quarter of that elsewhere: contrast, one model, dropout, early exit, window, fp8
              caches, other numbers of slots
    corpus    the paper's 97.3M new tokens at these rates: an extrapolation

A step is checked before it is timed: the graph's tokens are those of the same steps one by one. The
file is written after every case, and a case that fails is recorded with its error.
bench_gpu_transformers.py has the rates of `transformers` on the same pair.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from cdgen.bench.bounds.roofline import GPUS, step_bound
from cdgen.bench.end_to_end.bench_generate import PROMPT, scale_heads
from cdgen.bench.end_to_end.gpu_generation_workload import (
    NEW,
    make_engine,
    paper_model,
    recorded,
    requests,
)
from cdgen.bench.timing.environment import save_result, write_result
from cdgen.bench.timing.gpu_timing import copy_bandwidth, require_cuda
from cdgen.engine.sequences import Request, StepReport
from cdgen.engine.slot_engine import SlotEngine
from cdgen.models.registry import lean_config

SLOTS = 1024  # of the step and the longest measurement
CORPUS_TOKENS = 30_400 * 8 * 400
TENSOR_FLOPS = GPUS["h200"][1]
# Beginnings or parts of the names of a step's kernels, in the order in which they are tried.
PARTS = {
    "attention": ("_attend",),
    "sampler": ("sample_kernel", "part_kernel", "finish_kernel", "head_kernel", "collect"),
    "norms, rotary, activations": ("rms_norm", "layer_norm", "rotary", "swiglu", "gelu"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma"),
    "bookkeeping": ("_advance_slots",),
}


# ---- one step ----------------------------------------------------------------------------------


def settle(engine: SlotEngine, context: int) -> None:
    """Fill all slots at one context, the mean of a running corpus."""
    slots = engine.slots
    slots.tokens.random_(0, 1000)
    slots.positions.fill_(context - 1)
    slots.sequence_ids.copy_(torch.arange(len(slots.alive)))
    slots.prompt_tokens.fill_(PROMPT)
    slots.alive.fill_(True)


@torch.inference_mode()
def check_graph(engine: SlotEngine, context: int) -> None:
    """Raise AssertionError unless a launch writes the same as its steps one by one."""
    engine.runner.prepare()
    settle(engine, context)
    state = engine.slots.state.clone()
    by_graph = [r.copy() for r in engine.runner.launch().result()]
    engine.slots.state.copy_(state)
    engine.slots.alive.fill_(True)
    graph, engine.runner.graph = engine.runner.graph, None
    engine.runner.run()
    engine.runner.graph = graph
    one_by_one = engine.runner.records[0].cpu().numpy()
    assert (by_graph[0] == one_by_one).all(), "the graph draws other tokens than its steps"
    assert (one_by_one[:, 0] == 1).all(), "a slot did not draw"


@torch.inference_mode()
def places_change_nothing(engine: SlotEngine, context: int) -> bool:
    """Return whether slots that trade places draw the same. It depends on the library's matrix
    products, so it is reported and does not end the benchmark."""
    settle(engine, context)
    state, drawn = engine.slots.state.clone(), []
    order = torch.randperm(state.shape[1], device=state.device)
    for placed in (state, state[:, order]):
        for decoder in filter(None, (engine.good, engine.bad)):
            for cache in decoder.caches:
                cache.keys.zero_()
                cache.values.zero_()
        engine.slots.state.copy_(placed)
        engine.slots.alive.fill_(True)
        engine.runner.run()
        drawn.append(engine.runner.records[0].clone())
    return torch.equal(drawn[0][:, :, order], drawn[1])


@torch.inference_mode()
def step_us(engine: SlotEngine, context: int, launches: int = 25) -> float:
    """Return the time of a launch divided by its steps; contexts grow by those steps around
    `context`."""
    steps = len(engine.runner.records[0])
    settle(engine, context - launches * steps // 2)
    for _ in range(3):
        engine.runner.launch()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    settle(engine, context - launches * steps // 2)
    begin.record()
    for _ in range(launches):
        engine.runner.launch()
    end.record()
    end.synchronize()
    return 1e3 * begin.elapsed_time(end) / (launches * steps)


def part_of(kernel: str) -> str:
    for part, names in PARTS.items():
        if any(name in kernel for name in names):
            return part
    return "others"


@torch.inference_mode()
def profile_step(engine: SlotEngine, context: int) -> dict[str, Any]:
    """Return what `by_part` makes of a launch; nothing if the profiler is not permitted."""
    from torch.profiler import ProfilerActivity, profile

    steps = len(engine.runner.records[0])
    settle(engine, context)
    engine.runner.launch().result()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        engine.runner.launch().result()
    kernels = [e for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return by_part(kernels, steps) if kernels else {}


def by_part(kernels: list[Any], steps: int) -> dict[str, Any]:
    """Return the launches of a step by part, their microseconds, and the time between them, from
    the kernels of several steps as the profiler lists them."""
    launches, us = Counter[str](), Counter[str]()
    for kernel in kernels:
        part = part_of(kernel.name)
        launches[part] += 1
        us[part] += kernel.time_range.elapsed_us()
    begin = min(k.time_range.start for k in kernels)
    end = max(k.time_range.end for k in kernels)
    us["gaps"] = max(0.0, end - begin - us.total())
    return {
        "launches": round(launches.total() / steps, 1),
        "launches_by_part": {part: round(n / steps, 1) for part, n in launches.items()},
        "parts_us": {part: round(t / steps, 1) for part, t in us.items()},
    }


def measure_step(
    good: Any, bad: Any, slots: int, context: int, bandwidth: float, kv_dtype: torch.dtype
) -> dict[str, Any]:
    shape = lean_config(good.config.to_dict(), PROMPT + NEW)
    assert shape is not None
    engine = make_engine(good, bad, slots, kv_dtype=kv_dtype)
    check_graph(engine, context)
    us = step_us(engine, context)
    bound = step_bound(shape, shape, slots, context, kv_bytes=kv_dtype.itemsize)
    least = bound.microseconds(bandwidth, TENSOR_FLOPS)
    return {
        "slots": slots,
        "context": context,
        "step_us": round(us, 1),
        "bound_us": round(least, 1),
        "of_roofline": round(least / us, 3),
        **profile_step(engine, context),
        "places_change_nothing": places_change_nothing(engine, context),
    }


# ---- the whole engine --------------------------------------------------------------------------


def steady(engine: SlotEngine, work: Iterable[Request], seconds: float) -> dict[str, Any]:
    """Return tokens per second over `seconds` or more, after every slot was refilled once."""
    drawn, began, at = 0, 0.0, 0

    def count(report: StepReport) -> None:
        nonlocal drawn
        drawn += report.drawn

    engine.on_step = count
    for finished, _ in enumerate(engine.generate(work), start=1):
        now = time.perf_counter()
        if finished == engine.good.slots:
            began, at = now, drawn
        elif finished > engine.good.slots and now - began >= seconds:
            break
    elapsed = time.perf_counter() - began
    return {"tokens_per_s": round((drawn - at) / elapsed), "seconds": round(elapsed, 1)}


def steady_cases(slots: list[int]) -> dict[str, tuple[int, dict[str, Any]]]:
    """Return the slots and options of every case, by its name."""
    fp8 = {"kv_dtype": torch.float8_e4m3fn}
    return {
        f"contrast, {SLOTS} slots": (SLOTS, {}),
        f"contrast, fp8, {SLOTS} slots": (SLOTS, fp8),
        f"one model, {SLOTS} slots": (SLOTS, {"kind": "vanilla"}),
        f"dropout, {SLOTS} slots": (SLOTS, {"kind": "dropout"}),
        f"early exit, {SLOTS} slots": (SLOTS, {"kind": "layers"}),
        f"window, {SLOTS} slots": (SLOTS, {"kind": "window"}),
        # About one token in 200 ends a sequence, so that slots become free one by one.
        f"contrast, {SLOTS} slots, ends anywhere": (SLOTS, {"stops": 160}),
        f"contrast, {SLOTS} slots, prompts in batches": (SLOTS, {"stops": 160, "prefills": True}),
        **{f"contrast, {n} slots": (n, {}) for n in slots if n != SLOTS},
        f"contrast, fp8, {slots[-1]} slots": (slots[-1], fp8),
    }


def measure_steady(
    good: Any, bad: Any, slots: list[int], seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each case, measured for `seconds` if it is one of the first two, a quarter if not."""

    def run(count: int, options: dict[str, Any], limit: float) -> dict[str, Any]:
        engine = make_engine(good, bad, count, **options)
        return steady(engine, requests(good.config.vocab_size), limit)

    for number, (name, (count, options)) in enumerate(steady_cases(slots).items()):
        yield name, recorded(run, count, options, seconds if number < 2 else seconds / 4)


def corpus_minutes(found: dict[str, Any]) -> dict[str, float]:
    """Extrapolate the minutes of the paper's corpus at each rate of two models."""
    return {
        name: round(CORPUS_TOKENS / case["tokens_per_s"] / 60, 1)
        for name, case in found.items()
        if name.startswith("contrast")
        and "tokens_per_s" in case
        and "ends" not in name
        and "prompts" not in name
    }


def measure(slots: list[int], seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the result so far after every case."""
    good, bad = (paper_model(seed, "cuda") for seed in (0, 1))
    scale_heads(good, bad)
    bandwidth = copy_bandwidth()
    found: dict[str, Any] = {
        "copy_bandwidth_GB_per_s": round(bandwidth / 1e9),
        "corpus_new_tokens": CORPUS_TOKENS,
        "step": {},
        "steady": {},
    }
    for name, dtype in (("bf16", torch.bfloat16), ("fp8", torch.float8_e4m3fn)):
        found["step"][name] = recorded(measure_step, good, bad, SLOTS, 220, bandwidth, dtype)
        yield found
    for name, case in measure_steady(good, bad, slots, seconds):
        found["steady"][name] = case
        found["corpus_minutes_extrapolated"] = corpus_minutes(found["steady"])
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=[512, 2048, 4096])
    parser.add_argument("--seconds", type=float, default=20, help="of steady state at 1024 slots")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    require_cuda()
    found: dict[str, Any] = {}
    for found in measure(args.slots, args.seconds):
        save_result("gpu-generate", found, args.out)
    write_result("gpu-generate", found, args.out)


if __name__ == "__main__":
    main()
