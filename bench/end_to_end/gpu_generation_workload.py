"""The workload of `bench_gpu_generate`: a pair of the paper's shape, and the same through
`transformers`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cdgen.bench.end_to_end.bench_generate import PARAMS, Contrast
from cdgen.engine.sequences import Limits, Request
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.kernels.sampling_params import SamplingParams
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.registry import lean_config

PROMPT, NEW = 20, 400
VANILLA = SamplingParams(alpha=0.0, bad_weight=0.0)


def paper_model(seed: int, device: str, layers: int = 12, width: int = 768) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=32_000,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
    )
    model: Any = LlamaForCausalLM(config)
    return model.to(device).eval()


def make_engine(
    good: Any,
    bad: Any,
    slots: int,
    *,
    kind: str = "contrast",  # contrast | vanilla | dropout
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
        dropout=Dropout(0.5, 1) if kind == "dropout" else None,
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


# ---- transformers ------------------------------------------------------------------------------


@torch.inference_mode()
def transformers_rate(good: Any, bad: Any, rows: int) -> float:
    """Run generate with a contrastive logits processor, in bf16."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(good.config.vocab_size, (rows, PROMPT), generator=generator)
    prompts = prompts.to(good.device)
    began = time.perf_counter()
    out = good.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        logits_processor=[Contrast(bad)],
        do_sample=True,
        top_k=0,
        max_new_tokens=NEW,
        pad_token_id=0,
    )
    assert out.cpu().shape == (rows, PROMPT + NEW)
    return rows * NEW / (time.perf_counter() - began)


@torch.inference_mode()
def continuous_batching_rate(good: Any, rows: int) -> float:
    """Run generate_batch, transformers' paged continuous batching, on one model."""
    from transformers import GenerationConfig

    work = [r.prompt for r in itertools.islice(requests(good.config.vocab_size), rows)]
    settings = GenerationConfig(do_sample=True, max_new_tokens=NEW, eos_token_id=-1, pad_token_id=0)
    began = time.perf_counter()
    out = good.generate_batch(work, generation_config=settings)
    made = sum(len(result.generated_tokens) for result in out.values())
    return made / (time.perf_counter() - began)


def measure_others(good: Any, bad: Any, rows: list[int]) -> dict[str, Any]:
    """Return tokens per second; a case that fails is recorded with its reason."""
    good, bad = good.bfloat16(), bad.bfloat16()
    found: dict[str, Any] = {}
    cases: list[tuple[str, Callable[..., float], tuple[Any, ...]]] = [
        (f"generate, {n} rows", transformers_rate, (good, bad, n)) for n in rows
    ]
    cases.append(("generate_batch of one model", continuous_batching_rate, (good, rows[-1])))
    for name, rate, arguments in cases:
        try:
            found[name] = round(rate(*arguments))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error)[:150]}"
        torch.cuda.empty_cache()
    return found
