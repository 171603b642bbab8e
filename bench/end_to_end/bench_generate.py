"""End to end on the CPU: the slot engine against `transformers` generate with a contrastive logits
processor, on one pair, in one run.

    python -m cdgen.bench.end_to_end.bench_generate --out bench/results/cpu-generate.json
    python -m cdgen.bench.end_to_end.bench_generate --dtype bfloat16 \
        --out bench/results/cpu-generate-bf16.json

The pair is two random Llamas of width 256, 6 layers, vocabulary 16384, untied, with 64 rows, 20
prompt tokens and 240 new ones. Random heads give flat distributions in which nothing is masked, so
both heads are scaled until GOOD's mean plausible set has 5 to 30 tokens, as in trained models.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cdgen.bench.timing.environment import write_result
from cdgen.engine.sequences import Limits, Request, Sequence
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.hf.logits_processor import ContrastiveLogitsProcessor
from cdgen.kernels import reference
from cdgen.kernels.sampling_params import SamplingParams
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.registry import lean_config

ROWS, PROMPT, NEW, VOCAB = 64, 20, 240, 16384
PARAMS = SamplingParams(alpha=0.1, bad_weight=1.0)
VANILLA = SamplingParams(alpha=0.0, bad_weight=0.0)


def random_llama(seed: int, layers: int = 6, width: int = 256, vocab: int = VOCAB) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=vocab,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@torch.inference_mode()
def mean_plausible(model: Any, tokens: torch.Tensor) -> float:
    logits = model(tokens.to(model.device)).logits
    return float(
        (logits >= logits.amax(-1, keepdim=True) + PARAMS.log_alpha).sum(-1).float().mean()
    )


def scale_heads(good: Any, bad: Any) -> None:
    """Scale both heads up until the mean plausible set has at most 30 tokens."""
    tokens = torch.randint(VOCAB, (4, 64), generator=torch.Generator().manual_seed(0))
    while mean_plausible(good, tokens) > 30:
        for model in (good, bad):
            model.lm_head.weight.data *= 1.25
    found = mean_plausible(good, tokens)
    if not 5 <= found <= 30:
        raise RuntimeError(f"mean plausible set: expected 5 to 30, got {found:.1f}")


@torch.inference_mode()
def run_transformers(good: Any, bad: Any, prompts: torch.Tensor, new: int = NEW) -> float:
    """Return the seconds of `new` tokens for every prompt [B, T], on the models' device."""
    contrast = ContrastiveLogitsProcessor(bad, PARAMS.bad_weight, PARAMS.alpha)
    start = time.perf_counter()
    out = good.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        logits_processor=[contrast],
        do_sample=True,
        top_k=0,
        max_new_tokens=new,
        pad_token_id=0,
    )
    assert out.cpu().shape == (len(prompts), prompts.shape[1] + new)
    return time.perf_counter() - start


def bad_of_good(kind: str, layers: int, tokens: int) -> dict[str, Any]:
    """Return the arguments with which a `Decoder` of `layers` layers makes a BAD of GOOD for
    sequences of `tokens`; none for other kinds."""
    made: dict[str, dict[str, Any]] = {
        "layers": {"exit_layers": layers // 2},
        "window": {"window": tokens // 4},
        "dropout": {"dropout": Dropout(0.5, seed=1)},
    }
    return made.get(kind, {})


def make_engine(
    kind: str,
    good: Any,
    bad: Any,
    new: int = NEW,
    dtype: torch.dtype = torch.float32,
    kv_dtype: torch.dtype | None = None,
) -> SlotEngine:
    """Return the engine that `cdgen generate` builds on a CPU for a kind of BAD: none, layers (the
    first half of GOOD's), window (a quarter of the context), folder or dropout."""

    def decoder(model: Any, **options: Any) -> Decoder:
        shape = lean_config(model.config.to_dict(), PROMPT + new)
        assert shape is not None
        return Decoder(
            shape,
            [model.state_dict()],
            ROWS,
            PROMPT + new,
            dtype=dtype,
            kv_dtype=kv_dtype,
            **options,
        )

    made_of_good = bad_of_good(kind, good.config.num_hidden_layers, PROMPT + new)
    second = decoder(bad) if kind == "folder" else None
    params = VANILLA if kind == "none" else PARAMS
    limits = Limits(max_new_tokens=new, eos_token_ids=(), stop_on_eos=False)
    settings = EngineSettings(params, limits, seed=0, vocab_size=good.config.vocab_size)
    return SlotEngine(decoder(good, **made_of_good), second, settings)


def run_engine(engine: SlotEngine, prompts: torch.Tensor) -> tuple[float, list[Sequence]]:
    """Return the seconds of one run, and what it wrote. Raises RuntimeError if a row could not be
    sampled."""
    requests = [Request(i, row) for i, row in enumerate(prompts.tolist())]
    start = time.perf_counter()
    sequences = list(engine.generate(requests))
    elapsed = time.perf_counter() - start
    if any(sequence.finish_reason != "length" for sequence in sequences):
        raise RuntimeError("a row could not be sampled")
    return elapsed, sequences


@torch.inference_mode()
def differing_draws(good: Any, bad: Any, sequences: list[Sequence]) -> float:
    """Repeat the engine's draws with whole forward passes of transformers, in fp32, and the
    reference; return the share that differs. Two forward passes round differently."""
    differing = drawn = 0
    for sequence in sequences[:4]:
        tokens = torch.tensor([sequence.tokens])
        logits = [m(tokens).logits[0, PROMPT - 1 : -1].contiguous() for m in (good, bad)]
        positions = torch.arange(PROMPT, PROMPT + NEW)
        ids = torch.full_like(positions, sequence.sequence_id)
        out = reference.sample_contrastive(logits[0], logits[1], PARAMS, 0, ids, positions, VOCAB)
        differing += int((out.tokens != tokens[0, PROMPT:]).sum())
        drawn += NEW
    return differing / drawn


def measure(repeats: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Raise RuntimeError if more than 1 in 200 draws in fp32 differ from those of transformers."""
    good, bad = random_llama(0), random_llama(1)
    scale_heads(good, bad)
    prompts = torch.randint(VOCAB, (ROWS, PROMPT), generator=torch.Generator().manual_seed(1))
    engine = make_engine("folder", good, bad, dtype=dtype)
    _, sequences = run_engine(engine, prompts)
    differing = differing_draws(good, bad, sequences)
    if dtype is torch.float32 and differing > 1 / 200:
        raise RuntimeError(f"a share of {differing} of the draws differ from the reference")
    good, bad = good.to(dtype), bad.to(dtype)
    plausible = sum(s.plausible for s in sequences) / (ROWS * NEW)
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(run_engine(engine, prompts)[0])
        theirs.append(run_transformers(good, bad, prompts))
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "rows": ROWS,
        "prompt_tokens": PROMPT,
        "new_tokens": NEW,
        "mean_plausible": round(plausible, 2),
        "draws_unlike_fp32": round(differing, 4),
        "engine_tokens_per_s": round(ROWS * NEW / statistics.median(ours), 1),
        "transformers_tokens_per_s": round(ROWS * NEW / statistics.median(theirs), 1),
        "ratio": round(statistics.median(t / o for o, t in zip(ours, theirs, strict=True)), 2),
        "engine_s": [round(s, 3) for s in ours],
        "transformers_s": [round(s, 3) for s in theirs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = measure(args.repeats, getattr(torch, args.dtype))
    write_result("generate", found, args.out)


if __name__ == "__main__":
    main()
