"""Whether an engine runs GOOD and draws from GOOD's distribution."""

from __future__ import annotations

import math
from typing import Any

import torch

from cdgen.bench.end_to_end.engine_process import EngineError
from cdgen.bench.end_to_end.engines.worker import GREEDY_TOKENS

CHECKED_ROWS = 16  # of those drawn
# Standard errors. In 960 draws bf16 gave up to 1.3, a temperature of 0.95 -3.6, drawing from the 50
# best tokens only -42.
LARGEST_SURPRISE = 5.0


@torch.inference_mode()
def greedy_tokens(good: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Return the greedy continuations of transformers."""
    ids = torch.tensor(prompts)
    out = good.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=GREEDY_TOKENS,
        pad_token_id=0,
    )
    return out[:, ids.shape[1] :].tolist()


def leading_agreement(found: list[list[int]], expected: list[list[int]]) -> float:
    """Return the mean number of tokens before the first that differs. Raises EngineError if most
    prompts differ in the first: then it is another model."""

    def agreeing(a: list[int], b: list[int]) -> int:
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))

    counts = [agreeing(a, b) for a, b in zip(found, expected, strict=True)]
    if sum(count > 0 for count in counts) * 2 < len(counts):
        raise EngineError(f"greedy tokens differ from those of transformers: {counts} agree")
    return round(sum(counts) / len(counts), 1)


@torch.inference_mode()
def surprise(good: Any, prompts: list[list[int]], drawn: list[list[int]]) -> float:
    """Return by how many standard errors the drawn tokens are less likely than tokens of GOOD.

    For x drawn from p, -log p(x) has the mean H(p), the entropy, whatever was drawn before. A
    temperature or truncation moves the mean. Raises EngineError beyond LARGEST_SURPRISE.
    """
    every = max(1, len(prompts) // CHECKED_ROWS)
    tokens = torch.tensor([a + b for a, b in zip(prompts, drawn, strict=True)][::every])
    new = len(drawn[0])
    logp = good(tokens).logits[:, -new - 1 : -1].log_softmax(-1)  # [rows, new, V]
    entropy = -(logp.exp() * logp).sum(-1)
    excess = -logp.gather(-1, tokens[:, -new:, None])[..., 0] - entropy
    errors = float(excess.mean() / excess.std() * math.sqrt(excess.numel()))
    if not abs(errors) <= LARGEST_SURPRISE:
        raise EngineError(f"draws are not from GOOD's distribution: {errors:.1f} standard errors")
    return round(errors, 1)
