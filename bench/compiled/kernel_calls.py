"""The calls with which every Triton kernel is compiled: each op in the dtypes, shapes and options
that change its machine code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from cdgen.kernels.sampling_params import SamplingParams

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
NAMES = {BF16: "bf16", FP16: "fp16", FP32: "fp32"}
FP8 = torch.float8_e4m3fn
ROWS, CAPACITY = 4, 512

# The name of a call, and the call.
Calls = Iterator[tuple[str, Callable[[], object]]]


def _norm_inputs() -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None, torch.Tensor]]:
    """A call's name, x, delta and a weight."""
    for dtype, width, adds in [
        *((dtype, 768, True) for dtype in NAMES),
        (BF16, 768, False),
        (BF16, 576, True),
        (BF16, 4096, True),
    ]:
        x, weight = torch.empty(ROWS, width, dtype=dtype), torch.empty(1, width, dtype=dtype)
        name = f"{NAMES[dtype]}, D {width}{', x + delta' if adds else ''}"
        yield name, x, torch.empty_like(x) if adds else None, weight


def rms_norm_calls() -> Calls:
    from cdgen.kernels.gpu.rms_norm import rms_norm

    for name, x, delta, weight in _norm_inputs():
        yield name, partial(rms_norm, x, delta, weight, 1e-6)


def rotary_to_cache_calls() -> Calls:
    for dtype, width, norms in [
        *((dtype, 64, False) for dtype in NAMES),
        *((BF16, width, False) for width in (32, 80, 96, 128)),
        (BF16, 128, True),
    ]:
        yield _rotate(dtype, dtype, width, norms)


def fp8_rotary_to_cache_calls() -> Calls:
    for dtype in NAMES:
        yield _rotate(dtype, FP8, 64)
    yield _rotate(BF16, FP8, 128, norms=True)


def _rotate(
    dtype: torch.dtype, stored: torch.dtype, width: int, norms: bool = False
) -> tuple[str, Callable[[], object]]:
    from cdgen.kernels.gpu.rotary_to_cache import rotary_to_cache

    heads, kv_heads = 12, 4
    qkv = torch.empty(ROWS, (heads + 2 * kv_heads) * width, dtype=dtype)
    cache = torch.empty(ROWS, kv_heads, CAPACITY, width, dtype=stored)
    angles = torch.empty(CAPACITY, width // 2)
    norm = torch.empty(1, width, dtype=dtype) if norms else None
    name = [NAMES[dtype], *["fp8 cache"] * (stored is FP8), f"head size {width}"]
    positions = torch.empty(ROWS, dtype=torch.int64)
    return ", ".join(name + ["query and key norm"] * norms), partial(
        rotary_to_cache, qkv, angles, angles, positions, cache, cache.clone(), norm, norm, 1e-6
    )


def swiglu_calls() -> Calls:
    from cdgen.kernels.gpu.swiglu import swiglu

    for dtype in NAMES:
        yield f"{NAMES[dtype]}, F 2048", partial(swiglu, torch.empty(ROWS, 4096, dtype=dtype))


def layer_norm_calls() -> Calls:
    from cdgen.kernels.gpu.layer_norm import layer_norm

    for name, x, delta, weight in _norm_inputs():
        yield name, partial(layer_norm, x, delta, weight, weight.clone(), 1e-5)


def gelu_calls() -> Calls:
    from cdgen.kernels.gpu.gelu import gelu

    for tanh in (True, False):
        for dtype in NAMES:
            name = f"{NAMES[dtype]}, F 3072, {'tanh' if tanh else 'erf'}"
            yield name, partial(gelu, torch.empty(ROWS, 3072, dtype=dtype), tanh)


def decode_attention_calls() -> Calls:
    for dtype, width, group, rate in [
        *((dtype, 64, group, 0.0) for dtype in NAMES for group in (1, 3)),
        *(
            (dtype, width, group, 0.0)
            for dtype in (BF16, FP32)
            for width in (32, 80, 96, 128)
            for group in (1, 3)
        ),
        *((dtype, 64, group, 0.5) for dtype in (BF16, FP32) for group in (1, 3)),
    ]:
        yield _attend(dtype, dtype, width, group, rate)


def fp8_decode_attention_calls() -> Calls:
    for group in (1, 3):
        for dtype in NAMES:
            yield _attend(dtype, FP8, 64, group)
        for width in (32, 80, 96, 128):
            yield _attend(BF16, FP8, width, group)
        yield _attend(BF16, FP8, 64, group, rate=0.5)


def _attend(
    dtype: torch.dtype, stored: torch.dtype, width: int, group: int, rate: float = 0.0
) -> tuple[str, Callable[[], object]]:
    from cdgen.kernels.gpu.decode_attention import decode_attention

    lengths, ids, kv_heads = torch.ones(ROWS, dtype=torch.int64), torch.arange(ROWS), 4
    query = torch.empty(ROWS, group * kv_heads, width, dtype=dtype)
    cache = torch.empty(ROWS, kv_heads, CAPACITY, width, dtype=stored)
    heads = "one query" if group == 1 else f"{group} queries"
    name = [NAMES[dtype], *["fp8 cache"] * (stored is FP8), f"head size {width}"]
    name += [f"{heads} per KV head"] + ["dropout"] * bool(rate)
    return ", ".join(name), partial(
        decode_attention,
        query,
        cache,
        cache.clone(),
        lengths,
        width**-0.5,
        ids if rate else None,
        rate,
        0,
        0,
        0,
        0,
    )


def sample_contrastive_calls() -> Calls:
    for truncates in (False, True):
        yield _draw(BF16, 256, 32000, "logits", truncates)
        yield _draw(FP32, 256, 32000, "logits", truncates)
        yield _draw(BF16, 4, 32000, "logits", truncates)
        yield _draw(BF16, 256, 32000, "logits", truncates, alpha=0.0)
        yield _draw(BF16, 256, 32000, "logits", truncates, temperature=0.7)
    yield _draw(FP16, 256, 32000, "logits")
    yield _draw(BF16, 256, 32000, None)
    yield _draw(BF16, 256, 50257, "logits")
    yield _draw(BF16, 4, 128256, "logits")


def sample_contrastive_heads_calls() -> Calls:
    for truncates in (False, True):
        yield _draw(BF16, 256, 32000, "head", truncates)
    yield _draw(BF16, 4, 32000, "head")
    yield _draw(BF16, 256, 32000, "head", alpha=0.0)
    yield _draw(FP16, 256, 32000, "head")
    yield _draw(FP32, 256, 32000, "head", True)
    yield _draw(BF16, 256, 32000, "head and bias")


def _draw(
    dtype: torch.dtype,
    rows: int,
    vocab: int,
    bad: str | None,
    truncates: bool = False,
    alpha: float = 0.1,
    temperature: float = 1.0,
) -> tuple[str, Callable[[], object]]:
    from cdgen.kernels.gpu.sample_contrastive import sample_contrastive

    name = [NAMES[dtype], f"B {rows}", f"V {vocab}", f"BAD's {bad}" if bad else "no BAD"]
    name += ["top-p"] * truncates + ["alpha 0"] * (alpha == 0)
    name += [f"T {temperature}"] * (temperature != 1)
    top_p = 0.95 if truncates else 1.0
    params = SamplingParams(1.0, float(bool(bad)), alpha, temperature, top_p=top_p)
    good, width = torch.empty(rows, vocab, dtype=dtype), 768
    logits = torch.empty_like(good) if bad == "logits" else None
    has_head = bad in ("head", "head and bias")
    hidden = torch.empty(rows, width, dtype=dtype) if has_head else None
    head = torch.empty(vocab, width, dtype=dtype) if has_head else None
    bias = torch.empty(vocab, dtype=dtype) if bad == "head and bias" else None
    ids = positions = torch.arange(rows)
    return ", ".join(name), partial(
        sample_contrastive, good, logits, hidden, head, bias, params, 0, ids, positions, vocab
    )


def advance_slots_calls() -> Calls:
    from cdgen.kernels.gpu.advance_slots import advance_slots

    slots, prompt_capacity = 1024, 32
    number = torch.zeros(slots, dtype=torch.int64)
    prompts = number.new_zeros(slots, prompt_capacity)
    record = torch.zeros(3, slots, dtype=torch.int32)
    state = number, number.clone(), number.bool(), number, prompts
    drawn = number, number.to(torch.uint8), number.int()
    arguments = *state, *drawn, number[:2], 400, record
    yield f"B {slots}, P {prompt_capacity}", partial(advance_slots, *arguments)


OPS: dict[str, Callable[[], Calls]] = {
    "sample_contrastive": sample_contrastive_calls,
    "sample_contrastive_heads": sample_contrastive_heads_calls,
    "decode_attention": decode_attention_calls,
    "rms_norm": rms_norm_calls,
    "rotary_to_cache": rotary_to_cache_calls,
    "swiglu": swiglu_calls,
    "layer_norm": layer_norm_calls,
    "gelu": gelu_calls,
    "advance_slots": advance_slots_calls,
    "decode_attention of fp8": fp8_decode_attention_calls,
    "rotary_to_cache to fp8": fp8_rotary_to_cache_calls,
}
# Lower capabilities cannot convert e4m3, so the ops refuse.
LEAST_CAPABILITY = {"decode_attention of fp8": 89, "rotary_to_cache to fp8": 89}
