"""Decode attention on the GPU over batch sizes and contexts, one model and two in one launch.

It reports the time and the rate of reading the cache as a share of copy bandwidth, beside the same
with an fp8 cache and beside torch's scaled_dot_product_attention.

    python -m cdgen.bench.ops.bench_gpu_decode_attention --out DIR/gpu-decode-attention.json

The timed CUDA graphs are the ones whose output was just compared with the reference's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from cdgen.bench.timing.gpu_timing import (
    COLUMNS,
    L2,
    Call,
    Prepared,
    cells,
    command_line,
    copy_bandwidth,
    outcome,
    percent_of,
    prepare,
    prepare_baselines,
    sets_that_fit,
)
from cdgen.kernels import reference
from cdgen.kernels.decode_attention import decode_attention

HEADS, WIDTH = 12, 64
FP8 = torch.float8_e4m3fn
SCALE = WIDTH**-0.5
SEQUENCES = (64, 256, 512, 1024, 2048)
CONTEXTS = (220, 512, 1024)
KV_HEADS = (12, 4)

# The output is rounded to bf16, and so are the softmax weights where heads share keys: a relative
# error of at most 2^-9 each, against fp32 throughout.
ERROR = 2.0**-8


@dataclass(frozen=True)
class Setting:
    sequences: int
    models: int  # whose rows are stacked
    kv_heads: int
    context: int
    spread: bool = False  # lengths from context / 8 to 15 context / 8, as in slots that refill

    @property
    def capacity(self) -> int:
        return 2 * self.context if self.spread else self.context

    @property
    def cache_shape(self) -> tuple[int, int, int, int]:
        return self.models * self.sequences, self.kv_heads, self.capacity, WIDTH


def sweep() -> list[Setting]:
    equal = [
        Setting(b, m, h, t) for m in (1, 2) for h in KV_HEADS for t in CONTEXTS for b in SEQUENCES
    ]
    return equal + [Setting(1024, m, h, 220, spread=True) for m in (1, 2) for h in KV_HEADS]


@dataclass(frozen=True)
class Inputs:
    query: torch.Tensor  # [R, H, D]
    keys: torch.Tensor  # [R, Hkv, T, D]
    values: torch.Tensor  # [R, Hkv, T, D]
    lengths: torch.Tensor  # [B] int64


def make_inputs(setting: Setting, seed: int, device: str) -> Inputs:
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)

    lengths = torch.full((setting.sequences,), setting.context, device=device)
    if setting.spread:
        low, high = setting.context // 8, 2 * setting.context - setting.context // 8
        lengths = torch.linspace(low, high, setting.sequences, device=device).round().long()
        lengths = lengths[torch.randperm(len(lengths), generator=generator, device=device)]
    rows = setting.cache_shape[0]
    return Inputs(
        normal(rows, HEADS, WIDTH),
        normal(*setting.cache_shape),
        normal(*setting.cache_shape),
        lengths,
    )


def check(results: list[torch.Tensor], inputs: list[Inputs], chunk: int = 128) -> None:
    """Raise AssertionError unless every row of the output is within ERROR of the reference,
    relative to the Euclidean norm of the row."""
    for i, (out, of) in enumerate(zip(results, inputs, strict=False)):
        lengths = of.lengths.repeat(len(out) // len(of.lengths))
        for start in range(0, len(out), chunk):
            rows = slice(start, start + chunk)
            expected = reference.decode_attention(
                of.query[rows].float(),
                of.keys[rows].float(),
                of.values[rows].float(),
                lengths[rows],
                SCALE,
            )
            error = (out[rows].float() - expected).flatten(1).norm(dim=1)
            allowed = ERROR * expected.flatten(1).norm(dim=1)
            if not bool((error <= allowed).all()):  # false for NaN too
                worst = float((error / allowed).max()) * ERROR
                raise AssertionError(f"set {i}, rows from {start}: relative error {worst:.1e}")


def attend(x: Inputs) -> torch.Tensor:
    return decode_attention(x.query, x.keys, x.values, x.lengths, scale=SCALE, backend="triton")


def in_fp8(x: Inputs) -> Inputs:
    keys, values = (reference.stored(cache, FP8) for cache in (x.keys, x.values))
    return replace(x, keys=keys, values=values)


def prepare_fp8(inputs: list[Inputs], sets: int) -> dict[str, Prepared]:
    """Prepare and check the kernel with an fp8 cache; return nothing if the GPU has no e4m3."""
    if torch.cuda.get_device_capability() < (8, 9):
        return {}
    rounded = [in_fp8(x) for x in inputs]
    prepared = prepare(lambda i: attend(rounded[i]), sets)
    check(prepared.results, rounded)
    return {"triton, fp8 cache": prepared}


def baselines(setting: Setting, inputs: list[Inputs]) -> dict[str, Call | str]:
    """Return the baselines by name; a string instead of a call says why one is left out."""
    if setting.spread:
        return {"torch sdpa": "it has no per-row lengths without a mask"}

    def torch_sdpa(i: int) -> torch.Tensor:
        x, grouped = inputs[i], setting.kv_heads < HEADS
        return F.scaled_dot_product_attention(
            x.query[:, :, None], x.keys, x.values, scale=SCALE, enable_gqa=grouped
        )

    return {"torch sdpa": torch_sdpa}


def measure_setting(setting: Setting, bandwidth: float, l2: L2) -> dict[str, Any]:
    from cdgen.kernels.gpu.decode_attention import decode_attention_bytes

    rows, kv_heads, capacity, width = setting.cache_shape
    number_bytes = torch.bfloat16.itemsize + FP8.itemsize
    sets = sets_that_fit(2 * rows * kv_heads * capacity * width * number_bytes)
    inputs = [make_inputs(setting, seed, "cuda") for seed in range(sets)]
    triton = prepare(lambda i: attend(inputs[i]), sets)
    check(triton.results, inputs)
    fp8 = prepare_fp8(inputs, sets)
    others, skipped = prepare_baselines(baselines(setting, inputs), sets)
    first = inputs[0]
    nbytes = decode_attention_bytes(first.query, first.keys, first.lengths)
    found = outcome({"triton": triton, **fp8, **others}, skipped, nbytes, bandwidth, l2)
    for name in fp8:
        cache = torch.empty_like(first.keys, dtype=FP8, device="meta")
        fp8_bytes = decode_attention_bytes(first.query, cache, first.lengths)
        us = found["us"][name]["p50"]
        found |= {
            "fp8_bytes": fp8_bytes,
            "fp8_percent_of_copy_bandwidth": percent_of(bandwidth, fp8_bytes, us),
        }
    return {
        "sequences": setting.sequences,
        "models": setting.models,
        "kv_heads": kv_heads,
        "mean_context": round(float(inputs[0].lengths.float().mean()), 1),
        "lengths": "spread" if setting.spread else "equal",
        **found,
    }


def measure() -> Iterator[dict[str, Any]]:
    bandwidth, l2, found = copy_bandwidth(), L2(), list[dict[str, Any]]()
    for setting in sweep():
        torch.cuda.empty_cache()
        found.append(measure_setting(setting, bandwidth, l2))
        print("  ".join(map(str, summary(found[-1]))), flush=True)
        yield {
            "copy_bandwidth_gb_per_s": round(bandwidth / 1e9, 1),
            "heads": HEADS,
            "width": WIDTH,
            "dtype": "bfloat16",
            "settings": found,
        }


HEADINGS = ("sequences", "models", "kv heads", "context", "lengths", *COLUMNS, "% copy in fp8")


def summary(found: dict[str, Any]) -> tuple[object, ...]:
    """Return a row of the table, in the order of `HEADINGS`."""
    names = ("sequences", "models", "kv_heads", "mean_context", "lengths")
    fp8 = found.get("fp8_percent_of_copy_bandwidth", "-")
    return *(found[name] for name in names), *cells(found), fp8


def main() -> None:
    command_line(
        __doc__.splitlines()[0],
        "gpu_decode_attention",
        measure,
        lambda result: [HEADINGS, *map(summary, result["settings"])],
    )


if __name__ == "__main__":
    main()
