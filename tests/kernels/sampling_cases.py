"""Logits, parameters and coordinates for the tests of `sample_contrastive` on every backend."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from cdgen.kernels.sampling_params import SamplingParams

# The keys of two different tokens may differ by this much, relative to their magnitude (or 1): the
# logarithms of the noise may differ in the last bit. A greedy draw has no noise and must be exact.
KEY_TOLERANCE = 1e-5

SEED = 2**63 + 12345

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
VOCABULARIES = (1, 2, 7, 8, 111, 127, 128, 129, 1271, 16384, 50257, 128256)

PARAMETERS = {
    "cd": SamplingParams(),
    "cd-obrien": SamplingParams(good_weight=1.5, bad_weight=0.5),
    "cd-cold": SamplingParams(temperature=0.3),
    "cd-alpha-0": SamplingParams(alpha=0.0),
    "cd-alpha-1": SamplingParams(alpha=1.0),
    "plausible-only": SamplingParams(bad_weight=0.0),
    "vanilla": SamplingParams(bad_weight=0.0, alpha=0.0),
    "vanilla-hot": SamplingParams(bad_weight=0.0, alpha=0.0, temperature=2.5),
    "greedy": SamplingParams(temperature=0.0),
    "greedy-alpha-0": SamplingParams(temperature=0.0, alpha=0.0, top_p=0.9),
    "top-k": SamplingParams(alpha=0.0, top_k=5),
    "top-p": SamplingParams(alpha=0.0, top_p=0.9),
    "min-p": SamplingParams(alpha=0.0, min_p=0.05),
    "all-three": SamplingParams(top_k=200, top_p=0.95, min_p=0.02),
    "all-three-alpha-0": SamplingParams(alpha=0.0, top_k=2000, top_p=0.8, min_p=0.02),
}


def logit_rows(vocab: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return GOOD and BAD with eight kinds of row: eight of each for small V, half the kinds for
    large V."""
    generator = torch.Generator().manual_seed(vocab)
    repeats = 8 if vocab < 10_000 else 1
    noise = torch.randn(repeats, 8, vocab, generator=generator)
    bad = torch.randn(repeats, 8, vocab, generator=generator)
    good = 2 * noise
    good[:, 1] = 10 * noise[:, 1]  # peaked
    good[:, 2] = 1.5  # all of V plausible
    good[:, 3] = bad[:, 3] = 1.5  # all of V tied
    good[:, 4] = good[:, 4].round()  # many ties at the threshold, and in the score
    bad[:, 4] = bad[:, 4].round()
    for kind, share in ((5, 0.5), (6, 0.99), (7, 1.0)):  # -inf, except in one random column
        holes = torch.rand(repeats, vocab, generator=generator) < share
        column = torch.randint(vocab, (repeats, 1), generator=generator)
        good[:, kind] = good[:, kind].masked_fill(holes.scatter(1, column, False), -torch.inf)
    kinds = range(8) if vocab < 20_000 else (0, 2, 4, 5)
    return good[:, kinds].flatten(0, 1).to(dtype), bad[:, kinds].flatten(0, 1).to(dtype)


def coordinates(rows: int) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return the seed, sequence ids and positions of the draws."""
    return SEED, torch.arange(rows) * 0x9E3779B97F4A7, torch.arange(rows) * 37 + 1


finite_logits = st.floats(-60, 60, width=32) | st.integers(-4, 4).map(float)
any_logits = finite_logits | st.floats(width=32) | st.just(float("-inf"))


@st.composite
def rows_and_params(draw_: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, SamplingParams]:
    vocab = draw_(st.integers(1, 12))
    logits = draw_(st.sampled_from([finite_logits, any_logits]))
    row = st.lists(logits, min_size=vocab, max_size=vocab)
    good, bad = (torch.tensor(draw_(st.lists(row, min_size=2, max_size=2))) for _ in range(2))
    params = SamplingParams(
        good_weight=draw_(st.sampled_from([1.0, 0.5, 1.7])),
        bad_weight=draw_(st.sampled_from([0.0, 1.0]) | st.floats(0, 3, width=32)),
        alpha=draw_(st.sampled_from([0.0, 0.1, 1.0]) | st.floats(0, 1)),
        temperature=draw_(st.sampled_from([0.0, 1.0]) | st.floats(0.01, 100)),
        top_k=draw_(st.integers(0, vocab + 1)),
        top_p=draw_(st.just(1.0) | st.floats(0, 1, exclude_min=True)),
        min_p=draw_(st.just(0.0) | st.floats(0, 1)),
    )
    return good, bad, params
