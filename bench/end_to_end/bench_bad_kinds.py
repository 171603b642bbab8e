"""What each kind of BAD costs on the CPU: the slot engine's rate beside that of GOOD alone. With
`--formats`: what number formats of weights and caches save, with and without a BAD.

    python -m cdgen.bench.end_to_end.bench_bad_kinds --out bench/results/cpu-bad-kinds.json
    python -m cdgen.bench.end_to_end.bench_bad_kinds --formats --out \\
        bench/results/cpu-number-formats.json

Two sizes of random Llamas, 64 rows, 20 prompt tokens: width 256, 6 layers, vocabulary 16,384, and
the paper's width 768, 12 layers, vocabulary 32,000. `layers` stops GOOD after half of its layers;
`window` sees a quarter of the context, 65 of 260 tokens and 15 of 60. Heads are scaled until GOOD's
mean plausible set has 5 to 30 tokens. The contenders take turns, and a ratio is the median over
rounds of the times in one round.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from cdgen.bench.end_to_end.bench_generate import (
    PROMPT,
    ROWS,
    make_engine,
    random_llama,
    run_engine,
    scale_heads,
)
from cdgen.bench.end_to_end.gpu_generation_workload import paper_model
from cdgen.bench.timing.environment import write_result
from cdgen.kernels.arguments import dtype_name

KINDS = ("none", "layers", "window", "folder", "dropout")
FORMATS = (
    (torch.float32, torch.float32),
    (torch.float32, torch.int8),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.int8),
)  # of weights, of caches
Contenders = dict[str, dict[str, Any]]  # name: arguments of make_engine


def bad_argument(kind: str, layers: int, tokens: int, folder: Path) -> str:
    """Return `--bad` of a kind, for a GOOD of `layers` layers and sequences of `tokens`."""
    made = {"none": "none", "layers": f"layers:{layers // 2}", "dropout": "dropout:0.5"}
    made |= {"window": f"window:{tokens // 4}", "folder": str(folder)}
    return made[kind]


def kinds() -> Contenders:
    return {kind: {"kind": kind} for kind in KINDS}


def formats() -> Contenders:
    """Return GOOD alone and GOOD with a BAD of its first layers, in each format."""
    return {
        f"{kind}, {dtype_name(dtype)}, cache {dtype_name(kv_dtype)}": {
            "kind": kind,
            "dtype": dtype,
            "kv_dtype": kv_dtype,
        }
        for dtype, kv_dtype in FORMATS
        for kind in ("none", "layers")
    }


def measure_size(
    good: Any, bad: Any, new: int, rounds: int, contenders: Contenders
) -> dict[str, Any]:
    """Return rates by contender; the first is GOOD alone in float32."""
    scale_heads(good, bad)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(good.config.vocab_size, (ROWS, PROMPT), generator=generator)
    engines = {
        name: make_engine(good=good, bad=bad, new=new, **kind) for name, kind in contenders.items()
    }
    for engine in engines.values():
        run_engine(engine, prompts)
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            taken[name].append(run_engine(engine, prompts)[0])
    alone = next(iter(taken.values()))
    return {
        name: {
            "tokens_per_s": round(ROWS * new / statistics.median(times)),
            "of_good_alone": round(
                statistics.median(a / t for a, t in zip(alone, times, strict=True)), 3
            ),
            "seconds": [round(t, 3) for t in times],
        }
        for name, times in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--formats", action="store_true", help="number formats, not kinds of BAD")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    contenders = formats() if args.formats else kinds()
    small = measure_size(random_llama(0), random_llama(1), 240, args.rounds, contenders)
    paper = measure_size(paper_model(0, "cpu"), paper_model(1, "cpu"), 40, args.rounds, contenders)
    name = "number-formats" if args.formats else "bad-kinds"
    write_result(name, {"256x6, V 16384": small, "768x12, V 32000": paper}, args.out)


if __name__ == "__main__":
    main()
