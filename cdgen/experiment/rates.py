"""How fast this machine is: a few seconds of real training, generation and scoring steps of the
base model, with random weights and random text."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from transformers import PreTrainedModel

from cdgen.engine.sequences import Limits, Request
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.experiment.costs import Rates
from cdgen.experiment.recipe import RunRecipe
from cdgen.kernels.sampling_params import SamplingParams
from cdgen.models.decoder import Decoder
from cdgen.models.registry import lean_config
from cdgen.train.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, SpecialIds
from cdgen.train.model import new_model

_SECONDS = 3.0  # of each measurement
_SEQUENCES, _NEW_TOKENS = 64, 24  # as many rows as the slots of a CPU


def measure_rates(recipe: RunRecipe, threads: int, start: float) -> Rates:
    """Return the rates of this machine with `threads` threads. Compilation, where the recipe asks
    for it, is left out: it takes a minute, and its gain is not counted either. `start` is the
    seconds that a stage takes to begin."""
    torch.set_num_threads(threads)
    base, special = recipe.base, SpecialIds(PAD_ID, BOS_ID, EOS_ID)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = new_model(base, special)
    model.to(torch.device(device))  # type: ignore[arg-type]  # its wrapper hides the method
    rows = base.training.micro_batch_blocks
    tokens = torch.randint(3, base.vocab_size, (rows, base.block_size), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    autocast = torch.autocast(device, torch.bfloat16) if base.training.bf16 else nullcontext()

    def train() -> int:
        with autocast:
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        return tokens.numel()

    def score() -> int:
        with torch.inference_mode():
            model(input_ids=tokens).logits.float().logsumexp(-1).sum().item()
        return tokens.numel()

    trained, scored = _rate(train), _rate(score)
    generated = _generation_rate(recipe, model, device)
    machine = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return Rates(trained, generated, scored, start, f"{machine}, {threads} threads, measured now")


def _rate(step: Callable[[], int]) -> float:
    """Return the tokens per second of a step, after a first one that warms up."""
    step()
    began, tokens = time.monotonic(), 0
    while time.monotonic() - began < _SECONDS:
        tokens += step()
    return tokens / (time.monotonic() - began)


def _generation_rate(recipe: RunRecipe, model: PreTrainedModel, device: str) -> float | None:
    """Return the new tokens per second of a GOOD and a BAD of this size; None for an architecture
    that cdgen's own decoder does not cover.

    Random weights leave nearly all tokens plausible, so a trained pair is somewhat faster.
    """
    new, prompt = _NEW_TOKENS, recipe.corpora.prompt_tokens
    if (shape := lean_config(model.config.to_dict(), prompt + new)) is None:
        return None
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    place, weights = torch.device(device), dict(model.state_dict())
    good, bad = (
        Decoder(shape, [weights], _SEQUENCES, prompt + new, device=place, dtype=dtype)
        for _ in range(2)
    )
    limits = Limits(max_new_tokens=new, eos_token_ids=(), stop_on_eos=False)
    sampling = SamplingParams(alpha=0.1, bad_weight=1.0)
    settings = EngineSettings(sampling, limits, seed=0, vocab_size=recipe.base.vocab_size)
    engine = SlotEngine(good, bad, settings)
    requests = [Request(i, [BOS_ID] * prompt) for i in range(_SEQUENCES)]
    list(engine.generate(requests))
    began = time.monotonic()
    list(engine.generate(requests))
    return _SEQUENCES * new / (time.monotonic() - began)
