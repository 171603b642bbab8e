"""The workload of the GPU's generation benchmarks: a pair of the paper's shape and its engines, and
the record of a case that fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cdgen.bench.end_to_end.bench_generate import PARAMS, PROMPT, VANILLA, bad_of_good, random_llama
from cdgen.engine.sequences import Limits, Request
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.models.decoder import Decoder
from cdgen.models.registry import lean_config

NEW = 400


def paper_model(seed: int, device: str, layers: int = 12, width: int = 768) -> Any:
    return random_llama(seed, layers, width, vocab=32_000).to(device)


def make_engine(
    good: Any,
    bad: Any,
    slots: int,
    *,
    kind: str = "contrast",  # contrast | vanilla | those of `bad_of_good`
    kv_dtype: torch.dtype | None = None,
    new: int = NEW,
    stops: int = 0,  # number of the vocabulary's first tokens that end a sequence
    prefills: bool | None = None,
) -> SlotEngine:
    shape = lean_config(good.config.to_dict(), PROMPT + new)
    assert shape is not None
    models = [good.state_dict()] if kind != "contrast" else [good.state_dict(), bad.state_dict()]
    on_gpu = good.device.type == "cuda"
    decoder = Decoder(
        shape,
        models,
        slots,
        PROMPT + new,
        device=good.device,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        kv_dtype=kv_dtype,
        **bad_of_good(kind, shape.num_hidden_layers, PROMPT + new),
    )
    limits = Limits(new, tuple(range(stops)), stops > 0)
    params = VANILLA if kind == "vanilla" else PARAMS
    return SlotEngine(
        decoder, None, EngineSettings(params, limits, 0, shape.vocab_size), prefills=prefills
    )


def requests(vocabulary: int) -> Iterator[Request]:
    """Yield requests without end."""
    generator = torch.Generator().manual_seed(1)
    for number in itertools.count():
        yield Request(number, torch.randint(vocabulary, (PROMPT,), generator=generator).tolist())


def recorded(measure: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a measurement returns, or its error: the cases after it are still measured."""
    try:
        found = measure(*arguments)
    except Exception as error:
        found = {"failed": f"{type(error).__name__}: {error}"[:200]}
    torch.cuda.empty_cache()  # of what the measurement no longer holds
    return found
