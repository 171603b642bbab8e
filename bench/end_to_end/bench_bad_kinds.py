"""What each kind of BAD costs on the CPU: the slot engine's rate beside that of GOOD alone.

    python -m cdgen.bench.end_to_end.bench_bad_kinds --out bench/results/cpu-bad-kinds.json

Two sizes of random Llamas, 64 rows, 20 prompt tokens: width 256, 6 layers, vocabulary 16,384, and
the paper's width 768, 12 layers, vocabulary 32,000. `layers` stops GOOD after half of its layers;
`window` sees a quarter of the context, 65 of 260 tokens and 15 of 60. Heads are scaled until GOOD's
mean plausible set has 5 to 30 tokens. The kinds take turns, and a ratio is the median over rounds
of the times in one round.
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

KINDS = ("none", "layers", "window", "folder", "dropout")


def bad_argument(kind: str, layers: int, folder: Path) -> str:
    """Return `--bad` of a kind, for a GOOD of `layers` layers: the BAD of `make_engine`."""
    made = {"none": "none", "layers": f"layers:{layers // 2}", "dropout": "dropout:0.5"}
    return (made | {"folder": str(folder)})[kind]


def measure_size(good: Any, bad: Any, new: int, rounds: int) -> dict[str, Any]:
    scale_heads(good, bad)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(good.config.vocab_size, (ROWS, PROMPT), generator=generator)
    engines = {kind: make_engine(kind, good, bad, new) for kind in KINDS}
    for engine in engines.values():
        run_engine(engine, prompts)
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, engine in engines.items():
            taken[kind].append(run_engine(engine, prompts)[0])
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
