"""From a plan and a pair to an engine that is ready to run."""

from __future__ import annotations

import sys

import torch

from cdgen.checkpoints.checkpoint import Checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.checkpoints.pair import Pair
from cdgen.checkpoints.pretrained import errors_of, load_causal_lm
from cdgen.corpus.plan import Plan
from cdgen.engine.continuation import TextModel
from cdgen.engine.memory import SLOT_MULTIPLE
from cdgen.engine.sequences import Limits
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.engine.wave_engine import WaveEngine
from cdgen.errors import ModelError, is_out_of_memory, one_line
from cdgen.generation.fit_slots import require_memory, shapes_of
from cdgen.kernels.sampling_params import SamplingParams
from cdgen.models.config import DecoderConfig
from cdgen.models.decoder import Decoder, Dropout

_TRIED_TOKENS = 8  # with which a model of transformers shows that it can continue a text
Engine = SlotEngine | WaveEngine


def make_engine(plan: Plan, pair: Pair) -> Engine:
    """Build the engine that the plan names and load its models.

    Raises ModelError if they do not load, or do not fit into the device's memory.
    """
    return fitting_engine(plan, pair, may_shrink=False)[1]


def fitting_engine(
    plan: Plan, pair: Pair, may_shrink: bool, ranges_too: bool = False
) -> tuple[Plan, Engine]:
    """Build the engine like `make_engine`; if the device turns out too small, halve the slots.

    That needs `may_shrink`, and is reported on stderr. With `ranges_too` (the user gave no range
    size) the ranges shrink in proportion.
    """
    while True:
        try:
            return plan, _engine(plan, pair)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            half = plan.slots // 2 // SLOT_MULTIPLE * SLOT_MULTIPLE
            if not may_shrink or not half:
                raise ModelError(
                    f"{plan.slots} slots do not fit into the device's memory"
                    f" ({one_line(error, 200)}): give fewer --slots or --max-new-tokens, or end"
                    " other programs that use it"
                ) from error
        print(f"{plan.slots} slots do not fit into the device: trying {half}", file=sys.stderr)
        torch.cuda.empty_cache()
        smaller = {"slots": half}
        if ranges_too:
            smaller["range_size"] = plan.range_size * half // plan.slots
        plan = plan.model_copy(update=smaller)


def _engine(plan: Plan, pair: Pair) -> Engine:
    settings = EngineSettings(
        SamplingParams(**plan.sampling.model_dump()),
        Limits(plan.max_new_tokens, plan.eos_token_ids, plan.on_eos == "stop"),
        plan.seed,
        plan.vocab_size,
        plan.logprobs,
    )
    device = torch.device(plan.device_type)
    if plan.decoder == "transformers":
        good = _text_model(pair.good, plan)
        bad = _text_model(pair.bad, plan) if pair.bad else None
        return WaveEngine(good, bad, plan.slots, settings)
    engine = SlotEngine(*_decoders(plan, pair, device), settings)
    engine.prepare()
    return engine


def _text_model(checkpoint: Checkpoint, plan: Plan) -> TextModel:
    """Load a model of transformers and try it on a short text, so that one that does not run is
    refused before there is a plan. Raises ModelError."""
    model = load_causal_lm(checkpoint.folder, getattr(torch, plan.dtype), plan.device_type)
    with errors_of(checkpoint.folder):
        found = TextModel.of(model, plan.vocab_size, min(_TRIED_TOKENS, 1 + plan.max_new_tokens))
    if not found.carries_state:
        kind = model.config.model_type
        print(f"{kind} has no exact state: each token costs its whole text", file=sys.stderr)
    return found


def _decoders(plan: Plan, pair: Pair, device: torch.device) -> tuple[Decoder, Decoder | None]:
    """Load GOOD and BAD. A BAD made of GOOD shares its decoder; on a GPU, so does a checkpoint of
    the same shape, with half the launches."""
    capacity = plan.prompts.prompt_tokens + plan.max_new_tokens
    shapes = shapes_of(pair, capacity)
    assert shapes is not None  # the plan says that the lean decoders cover both
    good, bad = shapes
    require_memory(plan, pair, shapes)

    source = pair.bad_source

    def decoder(shape: DecoderConfig, models: list[Checkpoint]) -> Decoder:
        tensors = [load_tensors(model, torch.float32) for model in models]
        try:
            return Decoder(
                shape,
                tensors,
                plan.slots,
                capacity,
                device=device,
                dtype=getattr(torch, plan.dtype),
                kv_dtype=getattr(torch, plan.kv_dtype),
                dropout=Dropout(source.dropout, plan.seed) if source.dropout else None,
                window=source.window or None,
                exit_layers=source.layers or None,
            )
        except ModelError as error:
            folders = " or ".join(str(model.folder) for model in models)
            raise ModelError(f"{folders}: {error}") from error

    if pair.bad is None or bad is None:
        return decoder(good, [pair.good]), None
    if device.type == "cuda" and good == bad:
        return decoder(good, [pair.good, pair.bad]), None
    return decoder(good, [pair.good]), decoder(bad, [pair.bad])
