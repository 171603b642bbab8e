"""Decode attention on the CPU beside a plain read of the same bytes, for each format of the cache.

    python -m cdgen.bench.ops.bench_decode_attention --out bench/results/cpu-decode-attention.json

A step of a model with 6 layers: 64 rows, 4 heads of 64, contexts of 20 to 260 tokens, and a cache
of its own for every layer, so that a layer's keys and values are in no cache of the processor when
their turn comes. The plain read sums as many bytes with torch. Both take turns; times are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cdgen.bench.timing.environment import write_result
from cdgen.kernels import reference
from cdgen.kernels.arguments import dtype_name
from cdgen.kernels.decode_attention import decode_attention

LAYERS, ROWS, HEADS, HEAD_DIM, CAPACITY = 6, 64, 4, 64, 260
CACHES = (torch.float32, torch.bfloat16, torch.int8)


def random_cache(dtype: torch.dtype, generator: torch.Generator) -> dict[str, Any]:
    """Return keys, values and scales of one layer, full of normal numbers."""
    shape = 2, ROWS, HEADS, CAPACITY, HEAD_DIM
    numbers, scales = torch.randn(shape, generator=generator), None
    if dtype is torch.int8:
        numbers, scales = reference.quantized(numbers)
    keys, values = numbers.to(dtype)
    return {"keys": keys, "values": values, "scales": scales}


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure_cache(dtype: torch.dtype, compute: torch.dtype, rounds: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    layers = [random_cache(dtype, generator) for _ in range(LAYERS)]
    query = torch.randn(ROWS, HEADS, HEAD_DIM, generator=generator).to(compute)
    lengths = torch.linspace(20, CAPACITY, ROWS).long()
    scale = HEAD_DIM**-0.5
    check(query, layers[0], lengths, scale)
    bytes_read = 2 * LAYERS * HEADS * HEAD_DIM * dtype.itemsize * int(lengths.sum())
    plain = torch.zeros(bytes_read // 4)

    def attend() -> None:
        for layer in layers:
            decode_attention(query, lengths=lengths, scale=scale, **layer)

    def read() -> None:
        plain.sum()

    times: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        for taken, call in zip(times, (attend, read), strict=True):
            taken.append(seconds(call))
    attention, reading = (statistics.median(taken) for taken in times)
    return {
        "ms": round(1e3 * attention, 3),
        "gb_per_s": round(bytes_read / attention / 1e9, 1),
        "plain_read_gb_per_s": round(bytes_read / reading / 1e9, 1),
        "of_plain_read": round(reading / attention, 3),
    }


def check(query: torch.Tensor, layer: dict[str, Any], lengths: torch.Tensor, scale: float) -> None:
    """Raise AssertionError unless the kernel agrees with the reference."""
    found, expected = (
        decode_attention(query, lengths=lengths, scale=scale, backend=backend, **layer).float()
        for backend in ("cpu", "reference")
    )
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=torch.finfo(query.dtype).eps * 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result = {
        f"{dtype_name(compute)}, cache {dtype_name(dtype)}": measure_cache(
            dtype, compute, args.rounds
        )
        for compute in (torch.float32, torch.bfloat16)
        for dtype in CACHES
        if dtype.itemsize <= compute.itemsize
    }
    write_result("decode-attention", result, args.out)


if __name__ == "__main__":
    main()
