"""Hidden states, heads and parameters for the tests of `sample_contrastive_heads` on every
backend."""

from __future__ import annotations

import torch

from cdgen.kernels.sampling_params import SamplingParams

# The keys of two different tokens may differ by this much, relative to their magnitude (or 1): sums
# of products round differently in another order, by about sqrt(width) 2^-24 of BAD's logits.
KEY_TOLERANCE = 2e-5

ROWS, VOCAB, SEED = 40, 500, 21

PARAMETERS = {
    "cd": SamplingParams(),
    "greedy": SamplingParams(temperature=0.0),
    "dense": SamplingParams(alpha=0.0, bad_weight=0.5),
    "all-three": SamplingParams(alpha=0.01, top_k=30, top_p=0.9, min_p=0.01),
    "bad-unread": SamplingParams(bad_weight=0.0),
}


def problem(
    width: int, dtype: torch.dtype = torch.float32, rows: int = ROWS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return GOOD's logits, and BAD's hidden states, head and bias. BAD's logits have a spread of
    about 1."""
    generator = torch.Generator().manual_seed(width)
    good = 2 * torch.randn(rows, VOCAB, generator=generator)
    hidden = torch.randn(rows, width, generator=generator)
    head = torch.randn(VOCAB, width, generator=generator) / width**0.5
    bias = torch.randn(VOCAB, generator=generator)
    return good, hidden.to(dtype), head.to(dtype), bias.to(dtype)


def noise(rows: int = ROWS) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return the seed, sequence ids and positions of the draws."""
    return SEED, torch.arange(rows) + 2**40, torch.arange(rows) * 3
