"""A few calls of every op on each backend that can run here, compared with its reference.

`cdgen doctor` runs them on a user's machine. They take some seconds and find a kernel that is built
wrongly or runs on a processor or a GPU for which it is wrong; tests/kernels has the thorough
comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from cdgen.kernels.advance_slots import SlotState, advance_slots
from cdgen.kernels.decode_attention import AttentionDropout, decode_attention
from cdgen.kernels.dispatch import NotBuilt, interpreting, native
from cdgen.kernels.embedding import embedding
from cdgen.kernels.gelu import gelu
from cdgen.kernels.layer_norm import layer_norm
from cdgen.kernels.packed_linear import PackedWeights, packed_linear
from cdgen.kernels.reference import quantized
from cdgen.kernels.rms_norm import rms_norm
from cdgen.kernels.rotary_to_cache import rotary_to_cache
from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams
from cdgen.kernels.swiglu import swiglu
from cdgen.kernels.tree_attention import Forest, tree_attention

# Numbers here are of the order of 1, sums have up to 200 terms: in fp32 they round by some 1e-6, in
# bf16 by one step of 2^-8, in int8 by one number. A wrong kernel is off by far more.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2.0**-6, torch.int8: 1.0}

R, D, F, H, HKV, DH, T, V = 48, 100, 72, 4, 2, 16, 33, 1271  # the letters of reference.py

Result = Literal["ok", "differs", "not available here"]
Tensors = tuple[torch.Tensor, ...]
Call = Callable[[str, torch.device], Tensors]  # backend, where its tensors are -> what it computes


@dataclass(frozen=True)
class Outcome:
    """The result of one op on one backend."""

    op: str
    backend: str
    result: Result
    reason: str = ""


class Numbers:
    """The same numbers for every backend, on the device where it needs them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.source = torch.Generator().manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, generator=self.source).to(self.device, dtype)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=self.source).to(self.device)


def _rms_norm(backend: str, device: torch.device) -> Tensors:
    x = Numbers(device)
    stream, delta = x.normal(R, D), x.normal(R, D)
    return rms_norm(stream, delta, x.normal(D), 1e-6, backend), stream


def _layer_norm(backend: str, device: torch.device) -> Tensors:
    x = Numbers(device)
    stream, delta = x.normal(R, D), x.normal(R, D)
    return layer_norm(stream, delta, x.normal(2, D), x.normal(2, D), 1e-6, backend), stream


def _swiglu(backend: str, device: torch.device, dtype: torch.dtype) -> Tensors:
    return (swiglu(Numbers(device).normal(R, 2 * F, dtype=dtype), backend),)


def _gelu(backend: str, device: torch.device, dtype: torch.dtype) -> Tensors:
    x = Numbers(device).normal(R, F, dtype=dtype)
    return gelu(x, "tanh", backend), gelu(x, "erf", backend)


def _rotary_to_cache(backend: str, device: torch.device, cache: torch.dtype) -> Tensors:
    x = Numbers(device)
    angles, positions = x.normal(T, DH // 2), x.integers(T, R)
    qkv = x.normal(R, (H + 2 * HKV) * DH)
    keys, values = (torch.zeros(R, HKV, T, DH, dtype=cache, device=device) for _ in range(2))
    scales = torch.zeros(2, R, HKV, T) if cache is torch.int8 else None
    tables = angles.cos(), angles.sin()
    norms: dict[str, Any] = {"query_norm": x.normal(DH), "key_norm": x.normal(DH)}
    query = rotary_to_cache(
        qkv, *tables, positions, keys, values, **norms, scales=scales, backend=backend
    )
    return (query, keys, values, *(() if scales is None else (scales,)))


def _decode_attention(backend: str, device: torch.device, int8: bool, dropout: bool) -> Tensors:
    x = Numbers(device)
    query, lengths = x.normal(R, H, DH), 1 + x.integers(T, R)
    keys, values, scales = x.normal(R, HKV, T, DH), x.normal(R, HKV, T, DH), None
    if int8:
        (keys, of_keys), (values, of_values) = quantized(keys), quantized(values)
        scales = torch.stack([of_keys, of_values])
    noise = AttentionDropout(0.3, 7, 1, x.integers(1 << 40, R)) if dropout else None
    return (
        decode_attention(
            query,
            keys,
            values,
            lengths,
            scale=DH**-0.5,
            dropout=noise,
            scales=scales,
            backend=backend,
        ),
    )


def _tree_attention(backend: str, device: torch.device) -> Tensors:
    x = Numbers(device)
    parents = torch.arange(R) - 1  # three sequences that share no beginning
    parents[:: R // 3] = -1
    q, k, v = x.normal(R, H, DH), x.normal(R, HKV, DH), x.normal(R, HKV, DH)
    return (tree_attention(q, k, v, Forest(parents), scale=DH**-0.5, backend=backend),)


def _embedding(backend: str, device: torch.device, dtype: torch.dtype) -> Tensors:
    x = Numbers(device)
    tables = x.normal(2, V, D, dtype=dtype), x.normal(2, T, D, dtype=dtype)
    models = torch.tensor([1, 0, 1], device=device)
    return (embedding(x.integers(V, R), x.integers(T, R), models, *tables, backend),)


def _packed_linear(backend: str, device: torch.device, dtype: torch.dtype) -> Tensors:
    x = Numbers(device)
    weights = PackedWeights(x.normal(V, D, dtype=dtype) / 8, x.normal(V, dtype=dtype))
    return (packed_linear(x.normal(R, D, dtype=dtype), weights, backend=backend),)


def _draws(out: SampleOutput) -> Tensors:
    return out.tokens, out.status, out.plausible, out.kept


def _sample_contrastive(backend: str, device: torch.device, params: SamplingParams) -> Tensors:
    x = Numbers(device)
    good, bad = 3 * x.normal(R, V), x.normal(R, V)
    good[3, 5] = torch.nan  # a row that cannot be drawn
    ids, positions = x.integers(1 << 40, R), x.integers(400, R)
    return _draws(
        sample_contrastive(
            good, bad, params, seed=1, sequence_ids=ids, positions=positions, backend=backend
        )
    )


def _sample_contrastive_heads(backend: str, device: torch.device) -> Tensors:
    x = Numbers(device)
    good, hidden, head = 3 * x.normal(R, V), x.normal(R, D), x.normal(V, D) / D**0.5
    ids, positions, params = x.integers(1 << 40, R), x.integers(400, R), SamplingParams()
    noise: dict[str, Any] = {"seed": 2, "sequence_ids": ids, "positions": positions}
    return _draws(sample_contrastive_heads(good, hidden, head, params, **noise, backend=backend))


def _advance_slots(backend: str, device: torch.device) -> Tensors:
    x = Numbers(device)
    lengths = 1 + x.integers(5, R)
    state = SlotState(
        tokens=x.integers(V, R),
        positions=x.integers(9, R),
        alive=x.integers(4, R) > 0,
        prompt_tokens=lengths,
        prompts=x.integers(V, R, 5),
    )
    status = (x.integers(8, R) == 0).to(torch.uint8)
    drawn = x.integers(12, R).masked_fill(status > 0, -1)
    plausible = x.integers(9, R).to(torch.int32)
    record = torch.zeros(3, R, dtype=torch.int32, device=device)
    stops = torch.tensor([1, 7], device=device)
    out = SampleOutput(drawn, status, plausible, plausible)
    advance_slots(state, out, stops, 4, record, backend)
    return state.tokens, state.positions, state.alive, record


_SAMPLING = (
    SamplingParams(),
    SamplingParams(temperature=0.0),
    SamplingParams(alpha=0.0, top_k=50, top_p=0.9, min_p=0.01),
    SamplingParams(bad_weight=0.0, alpha=0.0),
)
_FORMATS = (torch.float32, torch.bfloat16)

# The calls of every op; those with an int8 cache are for backend cpu alone.
_CALLS: Mapping[str, tuple[Call, ...]] = {
    "advance_slots": (_advance_slots,),
    "decode_attention": tuple(
        partial(_decode_attention, int8=False, dropout=dropout) for dropout in (False, True)
    ),
    "decode_attention, int8 cache": (partial(_decode_attention, int8=True, dropout=False),),
    "embedding": tuple(partial(_embedding, dtype=dtype) for dtype in _FORMATS),
    "gelu": tuple(partial(_gelu, dtype=dtype) for dtype in _FORMATS),
    "layer_norm": (_layer_norm,),
    "packed_linear": tuple(partial(_packed_linear, dtype=dtype) for dtype in _FORMATS),
    "rms_norm": (_rms_norm,),
    "rotary_to_cache": (partial(_rotary_to_cache, cache=torch.float32),),
    "rotary_to_cache, int8 cache": (partial(_rotary_to_cache, cache=torch.int8),),
    "sample_contrastive": tuple(partial(_sample_contrastive, params=p) for p in _SAMPLING),
    "sample_contrastive_heads": (_sample_contrastive_heads,),
    "swiglu": tuple(partial(_swiglu, dtype=dtype) for dtype in _FORMATS),
    "tree_attention": (_tree_attention,),
}
_CPU_ONLY = (
    "decode_attention, int8 cache",
    "embedding",
    "packed_linear",
    "rotary_to_cache, int8 cache",
    "tree_attention",
)


def self_test() -> list[Outcome]:
    """Compare every op on every backend with its reference."""
    return [
        _outcome(op, backend, calls, missing)
        for backend, missing in (("cpu", _no_cpu()), ("triton", _no_triton()))
        for op, calls in _CALLS.items()
    ]


def _no_cpu() -> str:
    """Return why the native kernels cannot run, or "" if they can."""
    return "not built: pip install -e ." if isinstance(native, NotBuilt) else ""


def _no_triton() -> str:
    try:
        can = torch.cuda.is_available() or interpreting()
    except ImportError:
        return "triton is not installed"
    return "" if can else "needs a CUDA device"


def _outcome(op: str, backend: str, calls: tuple[Call, ...], missing: str) -> Outcome:
    if backend == "triton" and op in _CPU_ONLY:
        missing = "has no triton kernel"
    if missing:
        return Outcome(op, backend, "not available here", missing)
    on_gpu = backend == "triton" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    try:
        wrong = [text for call in calls if (text := _difference(call, backend, device))]
    except Exception as error:  # whatever a compiler or a driver raises: the list must go on
        wrong = [f"{type(error).__name__}: {' '.join(str(error).split()):.200}"]
    return Outcome(op, backend, "differs" if wrong else "ok", "; ".join(wrong))


def _difference(call: Call, backend: str, device: torch.device) -> str:
    """Return how far a backend is from the reference, or "" if it is not."""
    found = [x.cpu() for x in call(backend, device)]
    expected = call("reference", torch.device("cpu"))
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if ours.dtype is not theirs.dtype or ours.shape != theirs.shape:
            return f"{ours.dtype} {list(ours.shape)} instead of {theirs.dtype} {list(theirs.shape)}"
        gap = (ours.double() - theirs.double()).abs()
        limit = _TOLERANCE.get(theirs.dtype, 0.0)
        over = gap > limit * theirs.double().abs().clamp(min=1.0)
        if bool((over | gap.isnan()).any()):
            worst = max(worst, float(gap.nan_to_num(torch.inf).max()))
    return f"off by up to {worst:g}" if worst else ""
