"""From a plan and a pair to an engine that is ready to run, on the device and within its memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from cdgen.checkpoints.checkpoint import Checkpoint
from cdgen.checkpoints.loading import load_causal_lm, load_tensors
from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan
from cdgen.device import free_bytes, is_out_of_memory
from cdgen.engine.memory import SLOT_MULTIPLE, largest_slots, plan_memory
from cdgen.engine.sequences import Limits
from cdgen.engine.slot_engine import PREFILL_FROM, PREFILL_ROWS, SlotEngine
from cdgen.engine.wave_engine import WaveEngine
from cdgen.errors import ModelError, one_line
from cdgen.kernels.sampling_params import SamplingParams
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.registry import lean_config

if TYPE_CHECKING:
    from cdgen.models.config import DecoderConfig

CPU_SLOTS = 64  # beyond, a CPU gains nothing
Engine = SlotEngine | WaveEngine


def make_engine(plan: Plan, pair: Pair) -> Engine:
    """The engine that the plan names, its models loaded. Raises ModelError: they do not load, or
    not into the device's memory."""
    return fitting_engine(plan, pair, shrinks=False)[1]


def fitting_engine(
    plan: Plan, pair: Pair, shrinks: bool, ranges_too: bool = False
) -> tuple[Plan, Engine]:
    """`make_engine`; where the device turns out too small and the plan may change (`shrinks`), with
    half the slots, and says so. Ranges shrink along where nobody gave their size (`ranges_too`)."""
    while True:
        try:
            return plan, _engine(plan, pair)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            half = plan.slots // 2 // SLOT_MULTIPLE * SLOT_MULTIPLE
            if not shrinks or not half:
                raise ModelError(
                    f"{plan.slots} slots do not fit into the device's memory"
                    f" ({one_line(error, 200)}): give fewer --slots or"
                    " --max-new-tokens, or end what else uses it"
                ) from error
        print(f"{plan.slots} slots do not fit into the device: trying {half}", file=sys.stderr)
        torch.cuda.empty_cache()
        smaller = {"slots": half}
        if ranges_too:
            smaller["range_size"] = plan.range_size * half // plan.slots
        plan = plan.model_copy(update=smaller)


def _engine(plan: Plan, pair: Pair) -> Engine:
    params = SamplingParams(**plan.sampling.model_dump())
    limits = Limits(plan.max_new_tokens, plan.eos_token_ids, plan.on_eos == "stop")
    common = (params, limits, plan.seed, plan.vocab_size, plan.logprobs)
    device, dtype = torch.device(plan.device.split()[0]), getattr(torch, plan.dtype)
    if plan.decoder == "transformers":
        good = load_causal_lm(pair.good.folder, dtype).to(device)
        bad = load_causal_lm(pair.bad.folder, dtype).to(device) if pair.bad else None
        return WaveEngine(good, bad, plan.slots, *common)
    good_decoder, bad_decoder = _decoders(plan, pair, device)
    engine = SlotEngine(good_decoder, bad_decoder, *common)
    engine.prepare()
    return engine


def _decoders(plan: Plan, pair: Pair, device: torch.device) -> tuple[Decoder, Decoder | None]:
    """GOOD and BAD; on a GPU in one decoder where they have one shape: half the launches."""
    capacity = plan.prompts.prompt_tokens + plan.max_new_tokens
    shapes = shapes_of(pair, capacity)
    assert shapes is not None  # the plan says that the lean decoders cover both
    good, bad = shapes
    _require_memory(plan, pair, good, bad)

    def decoder(
        shape: DecoderConfig, models: list[Checkpoint], dropout: Dropout | None = None
    ) -> Decoder:
        tensors = [load_tensors(model, torch.float32) for model in models]
        return Decoder(
            shape, tensors, plan.slots, capacity, device=device, dropout=dropout,
            dtype=getattr(torch, plan.dtype), kv_dtype=getattr(torch, plan.kv_dtype),
        )  # fmt: skip

    if bad is None:
        return decoder(good, [pair.good]), None
    source = pair.bad_source
    dropout = Dropout(source.dropout, plan.seed) if source.kind == "dropout" else None
    if device.type == "cuda" and good == bad:
        models = [pair.good] if pair.bad is None else [pair.good, pair.bad]
        return decoder(good, models, dropout), None
    second = decoder(bad, [pair.bad or pair.good])
    if dropout:
        second.drop_attention(dropout.rate, dropout.seed)
    return decoder(good, [pair.good]), second


def shapes_of(pair: Pair, capacity: int) -> tuple[DecoderConfig, DecoderConfig | None] | None:
    """Of GOOD, and of BAD if there is one; None where the lean decoders do not cover both."""
    good = lean_config(pair.good.config, capacity)
    bad = lean_config((pair.bad or pair.good).config, capacity)
    if good is None or bad is None:
        return None
    return good, None if pair.bad_source.kind == "none" else bad


# ---- memory ------------------------------------------------------------------------------------


def auto_slots(
    total: int,  # sequences
    pair: Pair,
    prompt_tokens: int,
    max_new_tokens: int,
    dtype: str,
    kv_dtype: str,
    device: str,
) -> int:
    """What `--slots auto` means: on a GPU as many as its free memory holds, printed by part."""
    enough = -(-total // SLOT_MULTIPLE) * SLOT_MULTIPLE
    shapes = shapes_of(pair, prompt_tokens + max_new_tokens)
    if device == "cpu" or shapes is None:
        return min(CPU_SLOTS, enough)
    needs = _needs(pair, shapes[0], prompt_tokens, max_new_tokens, dtype, kv_dtype)
    free = free_bytes(device) or 0
    slots = min(enough, largest_slots(free, *shapes, **needs))
    parts = plan_memory(*shapes, slots, **needs)
    print(f"memory: {_listed(parts)} for {slots} slots, {_gib(free)} free", file=sys.stderr)
    return slots


def _needs(
    pair: Pair,
    good: DecoderConfig,
    prompt_tokens: int,
    max_new_tokens: int,
    dtype: str,
    kv_dtype: str,
) -> dict[str, Any]:
    """What decides a slot's memory, for `cdgen.engine.memory`."""
    return {
        "capacity": prompt_tokens + max_new_tokens,
        "dtype_bytes": getattr(torch, dtype).itemsize,
        "kv_bytes": getattr(torch, kv_dtype).itemsize,
        "vocab_size": good.vocab_size,
        "shared_weights": pair.bad_source.kind == "dropout",
        "prefill_tokens": PREFILL_ROWS * prompt_tokens if prompt_tokens >= PREFILL_FROM else 0,
    }


def _require_memory(plan: Plan, pair: Pair, good: DecoderConfig, bad: DecoderConfig | None) -> None:
    """Before anything is allocated: raises ModelError, with the numbers, where the plan needs more
    than is free. On a CPU, where the rest is small, the KV caches alone are counted."""
    device, prompt_tokens = plan.device.split()[0], plan.prompts.prompt_tokens
    if (free := free_bytes(device)) is None:
        return
    kinds = (plan.dtype, plan.kv_dtype)
    needs = _needs(pair, good, prompt_tokens, plan.max_new_tokens, *kinds)
    parts = plan_memory(good, bad, plan.slots, **needs)
    if device == "cpu":
        parts = {"kv": parts["kv"]}
    if sum(parts.values()) > free:
        raise ModelError(
            f"{plan.slots} slots x {needs['capacity']} tokens need {_listed(parts)},"
            f" {_gib(free)} are free: give fewer --slots or --max-new-tokens"
        )


def _listed(parts: dict[str, int]) -> str:
    each = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
    return f"{_gib(sum(parts.values()))} ({each})"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
