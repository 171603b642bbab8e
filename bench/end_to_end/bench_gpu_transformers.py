"""Generation on a GPU through `transformers`, on the pair of bench_gpu_generate.py in bf16.

    python -m cdgen.bench.end_to_end.bench_gpu_transformers --out OUT/gpu-transformers.json

The rates are those of generate with a contrastive logits processor, at several batch sizes, and of
generate_batch (continuous batching), which runs one model only. The file is written after every
case, and a case that fails is recorded with its error.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cdgen.bench.end_to_end.bench_generate import PROMPT, run_transformers, scale_heads
from cdgen.bench.end_to_end.gpu_generation_workload import (
    NEW,
    paper_model,
    recorded,
    requests,
)
from cdgen.bench.timing.environment import save_result, write_result
from cdgen.bench.timing.gpu_timing import require_cuda


def transformers_rate(good: Any, bad: Any, rows: int) -> int:
    """Run generate with a contrastive logits processor, in bf16."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(good.config.vocab_size, (rows, PROMPT), generator=generator)
    return round(rows * NEW / run_transformers(good, bad, prompts.to(good.device), NEW))


@torch.inference_mode()
def continuous_batching_rate(good: Any, rows: int) -> int:
    """Run generate_batch, transformers' paged continuous batching, on one model."""
    from transformers import GenerationConfig

    work = [r.prompt for r in itertools.islice(requests(good.config.vocab_size), rows)]
    settings = GenerationConfig(do_sample=True, max_new_tokens=NEW, eos_token_id=-1, pad_token_id=0)
    began = time.perf_counter()
    out = good.generate_batch(work, generation_config=settings)
    elapsed = time.perf_counter() - began
    made = sum(len(result.generated_tokens) for result in out.values())
    if made != rows * NEW:
        raise RuntimeError(f"expected {rows * NEW} new tokens, got {made}")
    return round(made / elapsed)


def measure(good: Any, bad: Any, rows: list[int], batch: int) -> Iterator[dict[str, Any]]:
    """Yield the tokens per second so far after every case: generate at each number of `rows`, then
    generate_batch of `batch` sequences, which may hang."""
    found: dict[str, Any] = {}
    for count in rows:
        found[f"generate, {count} rows"] = recorded(transformers_rate, good, bad, count)
        yield found
    found[f"generate_batch of one model, {batch} rows"] = recorded(
        continuous_batching_rate, good, batch
    )
    yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    require_cuda()
    good, bad = (paper_model(seed, "cuda") for seed in (0, 1))
    scale_heads(good, bad)
    found: dict[str, Any] = {}
    for found in measure(good.bfloat16(), bad.bfloat16(), [64, 256, 1024], batch=128):
        save_result("gpu-transformers", found, args.out)
    write_result("gpu-transformers", found, args.out)


if __name__ == "__main__":
    main()
