"""Workload of the GPU sampler's benchmark: the sweep, inputs as peaked as a trained model's, and
the check that every draw is the reference's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from cdgen.kernels import reference
from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams

ROWS = (1, 32, 256, 1024, 4096)
VOCABS = (16384, 32000, 50257, 128256)
TRUNCATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "top-k 200": {"top_k": 200},
    "top-p 0.95": {"top_p": 0.95},
}
MAIN = ((1024, 50257), (256, 32000))  # compared with more baselines and variants than the rest
WIDTH = 768  # of BAD's head
SEED = 17

# Greatest difference, relative to their magnitude (or 1), between the keys of two tokens that may
# be taken for each other: logarithms of two backends, and sums of a head in two orders, round
# differently.
KEY_TOLERANCE = 2e-5
KEPT_SLACK = 1  # top-p cuts by rounded masses, so `kept` may differ by one

CHUNK = 2**26  # logits that one call of the reference checks


@dataclass(frozen=True)
class Setting:
    rows: int
    vocab: int
    truncation: str
    dtype: torch.dtype = torch.bfloat16
    alpha: float = 0.1
    flat: bool = False  # GOOD's logits of a row are all equal
    heads: bool = False  # BAD is given by its hidden states and its head

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(alpha=self.alpha, **TRUNCATIONS[self.truncation])

    @property
    def set_bytes(self) -> int:
        """Bytes of one input set."""
        bad = WIDTH * (self.rows + self.vocab) if self.heads else self.rows * self.vocab
        return (self.rows * self.vocab + bad) * self.dtype.itemsize

    def __str__(self) -> str:
        kind = "flat" if self.flat else f"alpha {self.alpha:g}"
        heads = ", heads" if self.heads else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.rows} x {self.vocab} {dtype}, {kind}, {self.truncation}{heads}"


def sweep() -> list[Setting]:
    """Return all settings, the main points with their variants first, in case time runs out."""
    base = [Setting(*shape, truncation) for shape in MAIN for truncation in TRUNCATIONS]
    variants: list[dict[str, Any]] = [{"dtype": torch.float32}, {"alpha": 0.0}, {"flat": True}]
    main = base + [replace(setting, **variant) for variant in variants for setting in base]
    main += [Setting(*MAIN[0], truncation, heads=True) for truncation in TRUNCATIONS]
    every = [Setting(b, v, t) for v in VOCABS for b in ROWS for t in TRUNCATIONS]
    return main + [setting for setting in every if setting not in main]


@dataclass(frozen=True)
class Inputs:
    """Input sets that share no memory except the coordinates of the draws."""

    good: list[torch.Tensor]  # [B, V] of each set
    bad: list[torch.Tensor]  # [B, V]; none with heads
    hidden: list[torch.Tensor]  # [B, D]; none without heads
    head: list[torch.Tensor]  # [V, D]
    sequence_ids: torch.Tensor  # [B]
    positions: torch.Tensor  # [B]


def mean_plausible(good: torch.Tensor) -> float:  # [B, V] float32, at alpha 0.1
    threshold = good.amax(-1, keepdim=True) + SamplingParams().log_alpha
    return float((good >= threshold).sum(-1).float().mean())


def spread_of_logits(vocab: int, generator: torch.Generator) -> float:
    """Return the standard deviation at which normal logits have about 15 plausible tokens (trained
    models have 5 to 30). Raises RuntimeError if the result is outside that range."""
    sample, spread = torch.randn(64, vocab, generator=generator, device=generator.device), 1.0
    while mean_plausible(spread * sample) > 15:
        spread *= 1.05
    if not 5 <= (found := mean_plausible(spread * sample)) <= 30:
        raise RuntimeError(f"mean plausible set: expected 5 to 30, got {found:.1f}")
    return spread


def make_inputs(setting: Setting, sets: int, device: str) -> Inputs:
    """Make `sets` input sets in which the logits of GOOD and BAD have a correlation of one half."""
    rows, vocab = setting.rows, setting.vocab
    generator = torch.Generator(device).manual_seed(SEED)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    spread = spread_of_logits(vocab, generator)
    ids = torch.arange(rows, device=device)
    inputs = Inputs([], [], [], [], ids, 20 + ids)
    for _ in range(sets):
        if setting.heads:
            inputs.hidden.append(normal(rows, WIDTH).to(setting.dtype))
            inputs.head.append((spread * WIDTH**-0.5 * normal(vocab, WIDTH)).to(setting.dtype))
            bad = reference.linear(inputs.hidden[-1], inputs.head[-1], None)
        else:
            bad = spread * normal(rows, vocab)
            inputs.bad.append(bad.to(setting.dtype))
        if setting.flat:
            good = torch.full_like(bad, 3.0)
        else:
            good = 0.5 * bad + 0.75**0.5 * spread * normal(rows, vocab)
        inputs.good.append(good.to(setting.dtype))
    return inputs


def draw(
    inputs: Inputs,
    params: SamplingParams,
    i: int,
    backend: str,
    rows: slice = slice(None),
) -> SampleOutput:
    """Draw for some rows of input set i."""
    where: dict[str, Any] = {
        "seed": SEED,
        "sequence_ids": inputs.sequence_ids[rows],
        "positions": inputs.positions[rows],
        "backend": backend,
    }
    good = inputs.good[i][rows]
    if inputs.hidden:
        return sample_contrastive_heads(
            good, inputs.hidden[i][rows], inputs.head[i], params, **where
        )
    return sample_contrastive(good, inputs.bad[i][rows], params, **where)


def keys(
    inputs: Inputs,
    params: SamplingParams,
    i: int,
    row: int,
    tokens: torch.Tensor,  # ids
) -> torch.Tensor:  # float64: score plus noise, which the draw maximises
    if inputs.hidden:
        bad = inputs.head[i][tokens].double() @ inputs.hidden[i][row].double()
    else:
        bad = inputs.bad[i][row, tokens].double()
    score = params.good_weight * inputs.good[i][row, tokens].double() - params.bad_weight * bad
    at, count = slice(row, row + 1), int(tokens.max()) + 1
    words = reference.random_words(SEED, inputs.sequence_ids[at], inputs.positions[at], count)
    return score / params.temperature + reference.gumbel_from_words(words[0, tokens])


def all_but_tie(
    inputs: Inputs, params: SamplingParams, i: int, row: int, pair: torch.Tensor
) -> bool:
    """Return whether the keys of two tokens differ by no more than rounding can explain."""
    if pair.min() < 0:
        return False
    ours, best = keys(inputs, params, i, row, pair).tolist()
    return abs(ours - best) < KEY_TOLERANCE * max(1.0, abs(best))


def check(results: list[SampleOutput], inputs: Inputs, params: SamplingParams) -> None:
    """Raise AssertionError unless the draws of every input set are the reference's: equal status
    and plausible, kept within KEPT_SLACK, and equal tokens unless their keys all but tie."""
    step = max(1, CHUNK // inputs.good[0].shape[1])
    for i, whole in enumerate(results):
        for start in range(0, len(whole.tokens), step):
            rows = slice(start, start + step)
            expected = draw(inputs, params, i, "reference", rows)
            for field in ("status", "plausible"):
                if not torch.equal(getattr(whole, field)[rows], getattr(expected, field)):
                    raise AssertionError(f"set {i}, rows from {start}: {field} differs")
            if (whole.kept[rows] - expected.kept).abs().max() > KEPT_SLACK:
                raise AssertionError(f"set {i}, rows from {start}: kept differs")
            for row in (whole.tokens[rows] != expected.tokens).nonzero().flatten().tolist():
                pair = torch.stack([whole.tokens[start + row], expected.tokens[row]])
                if not all_but_tie(inputs, params, i, start + row, pair):
                    raise AssertionError(f"set {i}, row {start + row}: tokens {pair.tolist()}")
