"""How many slots a run takes: the shapes of its decoders, and the memory that they need."""

from __future__ import annotations

import sys

import torch

from cdgen.checkpoints.pair import Pair
from cdgen.corpus.plan import Plan
from cdgen.device import free_bytes
from cdgen.engine.memory import (
    SLOT_MULTIPLE,
    MemoryNeeds,
    describe_parts,
    gib,
    largest_slots,
    plan_memory,
)
from cdgen.engine.slot_engine import PREFILL_ROWS, uses_prefill
from cdgen.errors import ModelError
from cdgen.models.config import DecoderConfig
from cdgen.models.registry import lean_config

CPU_SLOTS = 64  # a CPU gains nothing from more
Shapes = tuple[DecoderConfig, DecoderConfig | None]  # of GOOD, of BAD


def shapes_of(pair: Pair, capacity: int) -> Shapes | None:
    """Return the shapes of GOOD's decoder and of BAD's if it has one, or None unless the lean
    decoders cover both."""
    good = lean_config(pair.good.config, capacity)
    bad = lean_config((pair.bad or pair.good).config, capacity)
    if good is None or bad is None:
        return None
    return good, None if pair.bad_source.kind in ("none", "layers") else bad


def auto_slots(plan: Plan, pair: Pair) -> int:
    """Return the slots of `--slots auto` for a plan whose own slots do not count yet: on a GPU as
    many as the free memory holds, which is reported by part on stderr."""
    enough = -(-plan.num_sequences // SLOT_MULTIPLE) * SLOT_MULTIPLE
    shapes = shapes_of(pair, plan.prompts.prompt_tokens + plan.max_new_tokens)
    if plan.device_type == "cpu" or shapes is None:
        return min(CPU_SLOTS, enough)
    needs, free = _needs(plan, pair, shapes), free_bytes(plan.device_type) or 0
    slots = min(enough, largest_slots(needs, free))
    parts = describe_parts(plan_memory(needs, slots))
    print(f"memory: {parts} for {slots} slots, {gib(free)} free", file=sys.stderr)
    return slots


def _needs(plan: Plan, pair: Pair, shapes: Shapes) -> MemoryNeeds:
    prompt_tokens = plan.prompts.prompt_tokens
    prefills = uses_prefill(prompt_tokens, plan.device_type)
    return MemoryNeeds(
        *shapes,
        capacity=prompt_tokens + plan.max_new_tokens,
        dtype_bytes=getattr(torch, plan.dtype).itemsize,
        kv_bytes=getattr(torch, plan.kv_dtype).itemsize,
        kv_scale_bytes=4 if plan.kv_dtype == "int8" else 0,
        shared_weights=pair.bad_source.kind in ("dropout", "window"),
        bad_window=pair.bad_source.window,
        exits_early=pair.bad_source.kind == "layers",
        prefill_tokens=PREFILL_ROWS * prompt_tokens if prefills else 0,
        logprobs=plan.logprobs,
    )


def require_memory(plan: Plan, pair: Pair, shapes: Shapes) -> None:
    """Raise ModelError, before anything is allocated, if the plan needs more memory than is free.

    On a CPU only the KV caches are counted: everything else is small.
    """
    if (free := free_bytes(plan.device_type)) is None:
        return
    needs = _needs(plan, pair, shapes)
    parts = plan_memory(needs, plan.slots)
    if plan.device_type == "cpu":
        parts = {"kv": parts["kv"]}
    if sum(parts.values()) > free:
        raise ModelError(
            f"{plan.slots} slots x {needs.capacity} tokens need {describe_parts(parts)},"
            f" {gib(free)} are free: give fewer --slots or --max-new-tokens"
        )
