"""What each kind of BAD costs on the CPU: the slot engine's rate beside that of GOOD alone.

    python -m cdgen.bench.end_to_end.bench_bad_kinds --out bench/results/cpu-bad-kinds.json

Two sizes of random Llamas, 64 rows, 20 prompt tokens: width 256, 6 layers, vocabulary 16,384, and
the paper's width 768, 12 layers, vocabulary 32,000. `layers` stops GOOD after half of its layers.
Heads are scaled until GOOD's mean plausible set has 5 to 30 tokens. The kinds take turns, and a
ratio is the median over rounds of the times in one round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from cdgen.bench.end_to_end.bench_generate import PARAMS, random_llama, scale_heads
from cdgen.bench.end_to_end.gpu_generation_workload import PROMPT, VANILLA, paper_model
from cdgen.bench.timing.environment import write_result
from cdgen.engine.sequences import Limits, Request
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.models.decoder import Decoder
from cdgen.models.registry import lean_config

ROWS = 64
KINDS = ("none", "layers", "folder", "dropout")


def make_engine(kind: str, good: Any, bad: Any, new: int) -> SlotEngine:
    """Return the engine that `cdgen generate` builds on a CPU for this kind of BAD."""
    shape = lean_config(good.config.to_dict(), PROMPT + new)
    assert shape is not None

    def decoder(model: Any, exit_layers: int | None = None) -> Decoder:
        return Decoder(shape, [model.state_dict()], ROWS, PROMPT + new, exit_layers=exit_layers)

    first = decoder(good, shape.num_hidden_layers // 2 if kind == "layers" else None)
    second = None
    if kind in ("folder", "dropout"):
        second = decoder(bad if kind == "folder" else good)
    if second and kind == "dropout":
        second.drop_attention(0.5, seed=1)
    params = VANILLA if kind == "none" else PARAMS
    limits = Limits(max_new_tokens=new, eos_token_ids=(), stop_on_eos=False)
    return SlotEngine(first, second, EngineSettings(params, limits, 0, shape.vocab_size))


def seconds(engine: SlotEngine, prompts: torch.Tensor) -> float:
    """Return the time of one run. Raises RuntimeError if a row could not be sampled."""
    requests = [Request(i, row) for i, row in enumerate(prompts.tolist())]
    start = time.perf_counter()
    sequences = list(engine.generate(requests))
    elapsed = time.perf_counter() - start
    if any(sequence.finish_reason != "length" for sequence in sequences):
        raise RuntimeError("a row could not be sampled")
    return elapsed


def measure_size(good: Any, bad: Any, new: int, rounds: int) -> dict[str, Any]:
    scale_heads(good, bad)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(good.config.vocab_size, (ROWS, PROMPT), generator=generator)
    engines = {kind: make_engine(kind, good, bad, new) for kind in KINDS}
    for engine in engines.values():
        seconds(engine, prompts)
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, engine in engines.items():
            taken[kind].append(seconds(engine, prompts))
    return {
        kind: {
            "tokens_per_s": round(ROWS * new / statistics.median(times)),
            "of_good_alone": round(
                statistics.median(a / t for a, t in zip(taken["none"], times, strict=True)), 3
            ),
            "seconds": [round(t, 3) for t in times],
        }
        for kind, times in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    small = measure_size(random_llama(0), random_llama(1), 240, args.rounds)
    paper = measure_size(paper_model(0, "cpu"), paper_model(1, "cpu"), 40, args.rounds)
    write_result("bad-kinds", {"256x6, V 16384": small, "768x12, V 32000": paper}, args.out)


if __name__ == "__main__":
    main()
