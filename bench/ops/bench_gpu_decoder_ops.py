"""The ops between a decoder layer's matrix products on the GPU, 1024 sequences of one model and of
two in one launch: time, and bytes per second as a share of a large copy's.

    python -m cdgen.bench.ops.bench_gpu_decoder_ops --out DIR/gpu-decoder-ops.json

The timed CUDA graphs are the ones whose output was just compared with the reference's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cdgen.bench.timing.gpu_timing import (
    COLUMNS,
    L2,
    MOST_SETS,
    Call,
    Prepared,
    cells,
    command_line,
    copy_bandwidth,
    outcome,
    prepare,
    prepare_baselines,
)
from cdgen.kernels.gelu import gelu
from cdgen.kernels.layer_norm import layer_norm
from cdgen.kernels.rms_norm import rms_norm
from cdgen.kernels.rotary_to_cache import rotary_to_cache
from cdgen.kernels.swiglu import swiglu

# The paper's model at 1024 slots.
SEQUENCES, HIDDEN, HEADS, HEAD_WIDTH, FEED_FORWARD, CAPACITY = 1024, 768, 12, 64, 3072, 420
EPS = 1e-6
OPS = ("rms_norm", "rotary_to_cache", "swiglu", "layer_norm", "gelu")

# Two steps of bf16, relative: a number that is rounded twice may round the other way twice.
ERROR = 2.0**-6


@dataclass(frozen=True)
class Op:
    """One op on several input sets, which share nothing but weights and tables."""

    call: Callable[[int, str], torch.Tensor]  # input set, backend
    written: list[list[torch.Tensor]]  # of each set: what the op changes in place
    nbytes: int


Normal = Callable[..., torch.Tensor]  # shape -> bf16 numbers


def _norm_op(name: str, normal: Normal, rows: int, models: int, sets: int) -> Op:
    from cdgen.kernels.gpu.layer_norm import layer_norm_bytes
    from cdgen.kernels.gpu.rms_norm import rms_norm_bytes

    x = [normal(rows, HIDDEN) for _ in range(sets)]
    weight, bias = normal(models, HIDDEN), normal(models, HIDDEN)
    # Small, because every call adds it again.
    delta = [0.01 * normal(rows, HIDDEN) for _ in range(sets)]

    def call(i: int, backend: str) -> torch.Tensor:
        if name == "rms_norm":
            return rms_norm(x[i], delta[i], weight, EPS, backend=backend)
        return layer_norm(x[i], delta[i], weight, bias, EPS, backend=backend)

    nbytes = rms_norm_bytes if name == "rms_norm" else layer_norm_bytes
    return Op(call, [[one] for one in x], nbytes(x[0], delta[0], weight))


def _activation_op(name: str, normal: Normal, rows: int, sets: int) -> Op:
    from cdgen.kernels.gpu.gelu import gelu_bytes
    from cdgen.kernels.gpu.swiglu import swiglu_bytes

    width = 2 * FEED_FORWARD if name == "swiglu" else FEED_FORWARD
    x = [normal(rows, width) for _ in range(sets)]

    def call(i: int, backend: str) -> torch.Tensor:
        if name == "swiglu":
            return swiglu(x[i], backend=backend)
        return gelu(x[i], "erf", backend=backend)

    nbytes = swiglu_bytes if name == "swiglu" else gelu_bytes
    return Op(call, [[] for _ in range(sets)], nbytes(x[0]))


def make_op(name: str, models: int, sets: int, device: str, sequences: int = SEQUENCES) -> Op:
    from cdgen.kernels.gpu.rotary_to_cache import rotary_to_cache_bytes

    generator, rows = torch.Generator(device).manual_seed(models), models * sequences

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)

    if name in ("rms_norm", "layer_norm"):
        return _norm_op(name, normal, rows, models, sets)
    if name in ("swiglu", "gelu"):
        return _activation_op(name, normal, rows, sets)
    qkv = [normal(rows, 3 * HEADS * HEAD_WIDTH) for _ in range(sets)]
    angles = torch.arange(CAPACITY, device=device)[:, None] * 10000.0 ** -torch.linspace(
        0, 1 - 2 / HEAD_WIDTH, HEAD_WIDTH // 2, device=device
    )
    cos, sin = angles.cos(), angles.sin()
    positions = torch.arange(sequences, device=device) % CAPACITY
    caches = [[normal(rows, HEADS, CAPACITY, HEAD_WIDTH) for _ in range(2)] for _ in range(sets)]
    return Op(
        lambda i, backend: rotary_to_cache(
            qkv[i], cos, sin, positions, *caches[i], backend=backend
        ),
        caches,
        rotary_to_cache_bytes(qkv[0], cos, positions, caches[0][0]),
    )


def check(op: Op, prepared: Prepared) -> None:
    """Launch once more, and raise AssertionError unless every number that is returned or written in
    place is within ERROR of the reference, relative to it or to 1 if larger."""
    before = [[x.clone() for x in written] for written in op.written]
    prepared.launch()
    for i, out in enumerate(prepared.results):
        found = [out, *(x.clone() for x in op.written[i])]
        for x, earlier in zip(op.written[i], before[i], strict=True):
            x.copy_(earlier)
        expected = [op.call(i, "reference"), *op.written[i]]
        for ours, theirs in zip(found, expected, strict=True):
            gap = (ours.float() - theirs.float()).abs()
            if not bool((gap <= ERROR * theirs.float().abs().clamp(min=1)).all()):  # NaN fails too
                raise AssertionError(f"set {i}: off by {float(gap.max()):.1e}")


def measure_op(name: str, models: int, bandwidth: float, l2: L2) -> dict[str, Any]:
    sets = 8 if name == "rotary_to_cache" else MOST_SETS  # its sets are caches of gigabytes
    op = make_op(name, models, sets, "cuda")
    triton = prepare(lambda i: op.call(i, "triton"), sets)
    check(op, triton)
    calls: dict[str, Call | str] = {"reference": lambda i: op.call(i, "reference")}
    others, skipped = prepare_baselines(calls, sets)
    return {
        "op": name,
        "models": models,
        **outcome({"triton": triton, **others}, skipped, op.nbytes, bandwidth, l2),
    }


def measure() -> Iterator[dict[str, Any]]:
    bandwidth, l2, found = copy_bandwidth(), L2(), list[dict[str, Any]]()
    for name, models in itertools.product(OPS, (1, 2)):
        torch.cuda.empty_cache()
        found.append(measure_op(name, models, bandwidth, l2))
        yield {
            "copy_bandwidth_gb_per_s": round(bandwidth / 1e9, 1),
            "sequences": SEQUENCES,
            "hidden": HIDDEN,
            "heads": HEADS,
            "head_width": HEAD_WIDTH,
            "feed_forward": FEED_FORWARD,
            "dtype": "bfloat16",
            "ops": found,
        }


HEADINGS = ("op", "models", *COLUMNS)


def summary(found: dict[str, Any]) -> tuple[object, ...]:
    """Return a row of the table, in the order of `HEADINGS`."""
    return found["op"], found["models"], *cells(found)


def main() -> None:
    command_line(
        __doc__.splitlines()[0],
        "gpu_decoder_ops",
        measure,
        lambda result: [HEADINGS, *map(summary, result["ops"])],
    )


if __name__ == "__main__":
    main()
