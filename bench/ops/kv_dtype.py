"""Measure how a KV cache in bf16 or fp8 changes a checkpoint's distributions on a text.

    python -m cdgen.bench.ops.kv_dtype --model DIR [--model DIR ...] --text FILE \\
        --out bench/results/cpu-kv-dtype.json

The text is teacher-forced, with weights and arithmetic in fp32. Keys after rotary and values are
rounded as the cache rounds them (`reference.stored`) before any query reads them, so each position
sees the same cache as in generation. For each dtype the result gives, over all positions, the KL in
nats from the distribution with an fp32 cache, and how often the plausible set at alpha 0.1 changes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from cdgen.bench.timing.environment import write_result
from cdgen.corpus.documents import open_source
from cdgen.kernels import reference

DTYPES = (torch.bfloat16, torch.float8_e4m3fn)
ALPHA = 0.1
LEAST_NORMAL = 2.0**-6  # smallest normal e4m3 number; below it, the step stays 2^-9


class RoundedCache(DynamicCache):
    """A cache that returns keys and values rounded to `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key, value = (
            reference.stored(x, self.dtype).to(x.dtype) for x in (key_states, value_states)
        )
        return super().update(key, value, *args, **kwargs)


def windows(
    tokenizer: Any, text: str, count: int, context: int
) -> torch.Tensor:  # [count, context]
    """Return the first documents of a text, end to end, in rows that each start with BOS."""
    row = context - 1
    ids: list[int] = []
    for document in open_source(text).texts():
        ids += tokenizer(document, add_special_tokens=False).input_ids
        if len(ids) >= count * row:
            break
    else:
        raise ValueError(f"text: expected {count * row} tokens, got {len(ids)} in {text}")
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else ids[0]
    rows = torch.tensor(ids[: count * row]).view(count, row)
    return torch.cat([torch.full((count, 1), first), rows], dim=1)


def log_probs(model: Any, tokens: torch.Tensor, cache: DynamicCache) -> torch.Tensor:  # [N, T, V]
    logits = model(tokens, past_key_values=cache).logits.double()
    return torch.log_softmax(logits, dim=-1)


def plausible(log_p: torch.Tensor) -> torch.Tensor:  # [N, T, V] bool
    return log_p >= log_p.amax(-1, keepdim=True) + math.log(ALPHA)


def magnitudes(caches: list[DynamicCache]) -> dict[str, Any]:
    """Return, over the keys and the values of all layers, the largest magnitude, the share that is
    subnormal in e4m3, and the least root mean square of a layer."""
    found = {}
    for name in ("keys", "values"):
        sizes = [getattr(layer, name).abs() for cache in caches for layer in cache.layers]
        small = [float((x < LEAST_NORMAL).float().mean()) for x in sizes]
        found[name] = {
            "largest": round(max(float(x.max()) for x in sizes), 2),
            "subnormal_share": round(sum(small) / len(small), 4),
            "least_layer_rms": round(min(float(x.pow(2).mean().sqrt()) for x in sizes), 3),
        }
    return found


def compared(
    model: Any, rows: Iterator[torch.Tensor], caches: list[DynamicCache]
) -> dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]]:
    """Return by dtype, one tensor per row: KL, whether the plausible set changed, and the increase
    of the next token's loss. Appends the fp32 caches to `caches`."""
    found: dict[torch.dtype, tuple[list, list, list]] = {dtype: ([], [], []) for dtype in DTYPES}
    for row in rows:
        caches.append(DynamicCache())
        exact = log_probs(model, row, caches[-1])
        for dtype, (divergence, changed, loss) in found.items():
            rounded = log_probs(model, row, RoundedCache(dtype))
            divergence.append((exact.exp() * (exact - rounded)).sum(-1).flatten())
            changed.append((plausible(exact) != plausible(rounded)).any(-1).flatten())
            grown = (exact - rounded)[:, :-1].gather(-1, row[:, 1:, None])
            loss.append(grown.flatten())
    return found


@torch.inference_mode()
def measure_model(folder: Path, text: str, count: int, context: int) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    ).eval()
    caches: list[DynamicCache] = []
    found = compared(model, iter(windows(tokenizer, text, count, context).split(1)), caches)
    by_dtype = {}
    for dtype, parts in found.items():
        divergence, changed, loss = (torch.cat(part) for part in parts)
        by_dtype[str(dtype).removeprefix("torch.")] = {
            "kl_mean": float(f"{divergence.mean():.3g}"),
            "kl_p99": float(f"{divergence.quantile(0.99):.3g}"),
            "plausible_set_changed": float(f"{changed.double().mean():.3g}"),
            "loss_grows_by": float(f"{loss.mean():.3g}"),
        }
    return {
        "model": "/".join(folder.resolve().parts[-2:]),
        "positions": count * context,
        "context": context,
        "cache": magnitudes(caches),
        "kv_dtype": by_dtype,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", required=True, metavar="DIR")
    parser.add_argument("--text", required=True, metavar="FILE", help="as --prompts of generate")
    parser.add_argument("--windows", type=int, default=16, help="rows of the text that are read")
    parser.add_argument("--context", type=int, default=256, help="tokens of each")
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args()
    models = [measure_model(m, args.text, args.windows, args.context) for m in args.model]
    result = {"text": Path(args.text).name, "alpha": ALPHA, "models": models}
    write_result("kv_dtype", result, args.out)


if __name__ == "__main__":
    main()
