"""Measure how number formats of the KV cache and of the weights change a checkpoint's distributions
on a text.

    python -m cdgen.bench.ops.kv_dtype --model DIR [--model DIR ...] --text FILE \\
        --out bench/results/cpu-kv-dtype.json

The text is teacher-forced. For each format the result gives, over all positions, the KL in nats
from fp32 throughout, and how often the plausible set at alpha 0.1 changes:

- `cache X`: weights and arithmetic in fp32. Keys after rotary and values are rounded as the cache
  rounds them (`reference.stored`, `reference.quantized`) before any query reads them, so each
  position sees the same cache as in generation.
- `bfloat16, cache X`: the decoder that `cdgen generate --dtype bfloat16` runs on a CPU, with a
  residual stream in fp32.
- `all bfloat16`: transformers in bf16 throughout, which is how a GPU computes.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from cdgen.bench.timing.environment import write_result
from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.corpus.documents import open_source
from cdgen.kernels import reference
from cdgen.models.decoder import Decoder
from cdgen.models.registry import lean_config

CACHES = (torch.bfloat16, torch.float8_e4m3fn, torch.int8)
CPU_CACHES = (torch.bfloat16, torch.int8)
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
        key, value = (self.rounded(x) for x in (key_states, value_states))
        return super().update(key, value, *args, **kwargs)

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        if self.dtype is not torch.int8:
            return reference.stored(x, self.dtype).to(x.dtype)
        numbers, scale = reference.quantized(x)
        return numbers.float() * scale[..., None]


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


def logits_of(model: Any, rows: torch.Tensor, caches: list[DynamicCache]) -> torch.Tensor:
    """Return the logits [N, T, V] of a model of transformers, one row after the other, each with
    the cache that `caches` holds for it."""
    pairs = zip(rows.split(1), caches, strict=True)
    return torch.cat([model(row, past_key_values=cache).logits for row, cache in pairs])


def lean_logits(folder: Path, rows: torch.Tensor, kv_dtype: torch.dtype) -> torch.Tensor:
    """Return the logits [N, T, V] of our decoder with weights in bf16, token by token."""
    checkpoint = open_checkpoint(folder)
    slots, capacity = rows.shape
    shape = lean_config(checkpoint.config, capacity)
    if shape is None:
        raise ValueError(f"model: expected one that a lean decoder covers, got {folder}")
    tensors = load_tensors(checkpoint, torch.float32)
    decoder = Decoder(shape, [tensors], slots, capacity, dtype=torch.bfloat16, kv_dtype=kv_dtype)
    ids, steps = torch.arange(slots), []
    for position, tokens in enumerate(rows.unbind(1)):
        hidden = decoder.forward(tokens.contiguous(), torch.full_like(ids, position), ids)
        steps.append(decoder.logits(hidden))
    return torch.stack(steps, dim=1)


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


def change(
    exact: torch.Tensor,  # [N, T, V] logits
    rounded: torch.Tensor,  # [N, T, V] logits
    rows: torch.Tensor,  # [N, T] the tokens
) -> dict[str, float]:
    """Return how far the rounded distributions are from the exact ones."""
    divergence, changed, loss = [], [], []
    for row, *logits in zip(rows, exact, rounded, strict=True):
        p, q = (torch.log_softmax(x.double(), dim=-1) for x in logits)
        divergence.append((p.exp() * (p - q)).sum(-1))
        changed.append((plausible(p) != plausible(q)).any(-1))
        loss.append((p - q)[:-1].gather(-1, row[1:, None]))
    kl = torch.cat(divergence)
    return {
        "kl_mean": float(f"{kl.mean():.3g}"),
        "kl_p99": float(f"{kl.quantile(0.99):.3g}"),
        "plausible_set_changed": float(f"{torch.cat(changed).double().mean():.3g}"),
        "loss_grows_by": float(f"{torch.cat(loss).mean():.3g}"),
    }


def load(folder: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False).eval()


@torch.inference_mode()
def measure_model(folder: Path, text: str, count: int, context: int) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    rows = windows(tokenizer, text, count, context)
    model, caches = load(folder, torch.float32), [DynamicCache() for _ in rows]
    exact = logits_of(model, rows, caches)
    found = {}
    for dtype in CACHES:
        rounded = logits_of(model, rows, [RoundedCache(dtype) for _ in rows])
        found[f"cache {name_of(dtype)}"] = change(exact, rounded, rows)
    for dtype in CPU_CACHES:
        rounded = lean_logits(folder, rows, dtype)
        found[f"bfloat16, cache {name_of(dtype)}"] = change(exact, rounded, rows)
    rounded = logits_of(load(folder, torch.bfloat16), rows, [DynamicCache() for _ in rows])
    found["all bfloat16"] = change(exact, rounded, rows)
    return {
        "model": "/".join(folder.resolve().parts[-2:]),
        "positions": count * context,
        "context": context,
        "cache": magnitudes(caches),
        "formats": found,
    }


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
