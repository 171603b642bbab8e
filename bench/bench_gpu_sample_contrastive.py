"""One contrastive draw on the GPU over batch and vocabulary sizes: the Triton kernels against the
eager reference, PyTorch as a user would write it, `torch.compile` of that, and FlashInfer's
sampler, which has one model's logits to read instead of two.

    python -m cdgen.bench.bench_gpu_sample_contrastive --out DIR/gpu-sample-contrastive.json

What is timed are the very CUDA graphs whose draws have just been compared with the reference's, row
for row, on the same inputs. A baseline that cannot run is skipped with its reason.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cdgen.bench.bench_sample_contrastive import pytorch
from cdgen.bench.environment import median_ratio, write_result
from cdgen.bench.gpu_timing import (
    L2,
    Call,
    copy_bandwidth,
    percent_of,
    prepare,
    prepare_baselines,
    require_cuda,
    sets_that_fit,
    table,
    time_in_turn,
    timings,
)
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
MAIN = ((1024, 50257), (256, 32000))  # where more is compared than in the sweep
WIDTH = 768  # of BAD's head
SEED = 17

# How far apart, relative to their magnitude (or 1), the keys of two different tokens may be: the
# logarithms of two backends, and with a head two orders of summation, round differently.
KEY_TOLERANCE = 2e-5
KEPT_SLACK = 1  # where top-p cuts follows from rounded masses

CHUNK = 2**26  # logits that the reference takes at a time when it checks
# Peak memory of the eager contenders, whose graphs live side by side. On the CPU the reference
# holds 63 bytes per logit and `pytorch` 37; the GPU's sort keeps a second copy of keys and indices.
EAGER_BYTES_PER_LOGIT = 160
BASELINES_S = 240.0  # after so long only the Triton kernels are timed: all of it has eight minutes


@dataclass(frozen=True)
class Setting:
    rows: int
    vocab: int
    truncation: str
    dtype: torch.dtype = torch.bfloat16
    alpha: float = 0.1
    flat: bool = False  # all of a row's logits of GOOD are equal
    heads: bool = False  # BAD's logits are to be computed

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(alpha=self.alpha, **TRUNCATIONS[self.truncation])

    @property
    def set_bytes(self) -> int:
        """Of one input set."""
        bad = WIDTH * (self.rows + self.vocab) if self.heads else self.rows * self.vocab
        return (self.rows * self.vocab + bad) * self.dtype.itemsize

    def __str__(self) -> str:
        kind = "flat" if self.flat else f"alpha {self.alpha:g}"
        heads = ", heads" if self.heads else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.rows} x {self.vocab} {dtype}, {kind}, {self.truncation}{heads}"


def sweep() -> list[Setting]:
    """The main points with all their variants first: they are not for skipping."""
    base = [Setting(*shape, truncation) for shape in MAIN for truncation in TRUNCATIONS]
    variants: list[dict[str, Any]] = [{"dtype": torch.float32}, {"alpha": 0.0}, {"flat": True}]
    main = base + [replace(setting, **variant) for variant in variants for setting in base]
    main += [Setting(*MAIN[0], truncation, heads=True) for truncation in TRUNCATIONS]
    every = [Setting(b, v, t) for v in VOCABS for b in ROWS for t in TRUNCATIONS]
    return main + [setting for setting in every if setting not in main]


@dataclass(frozen=True)
class Inputs:
    """Sets of inputs that share nothing in memory but the coordinates of the draws."""

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
    """The standard deviation at which normal logits have 15 plausible tokens, as trained models
    have 5 to 30. Raises RuntimeError outside that range."""
    sample, spread = torch.randn(64, vocab, generator=generator, device=generator.device), 1.0
    while mean_plausible(spread * sample) > 15:
        spread *= 1.05
    if not 5 <= (found := mean_plausible(spread * sample)) <= 30:
        raise RuntimeError(f"mean plausible set: expected 5 to 30, got {found:.1f}")
    return spread


def make_inputs(setting: Setting, sets: int, device: str) -> Inputs:
    """GOOD and BAD resemble each other: their logits correlate by a half."""
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
            bad = reference.head_logits(inputs.hidden[-1], inputs.head[-1], None)
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
    """The draws of some rows of input set i."""
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
) -> torch.Tensor:  # float64: what the draw maximises, of each token
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
    """Whether the keys of two tokens are as close as rounding makes them."""
    if pair.min() < 0:
        return False
    ours, best = keys(inputs, params, i, row, pair).tolist()
    return abs(ours - best) < KEY_TOLERANCE * max(1.0, abs(best))


def check(results: list[SampleOutput], inputs: Inputs, params: SamplingParams) -> None:
    """Raises AssertionError unless the draws of every input set are the reference's: status and
    plausible equal, kept within `KEPT_SLACK`, tokens equal but where their keys all but tie."""
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


def baselines(setting: Setting, inputs: Inputs, free_bytes: int) -> dict[str, Call | str]:
    """What the Triton kernels are compared with; a string says why one is left out."""
    params = setting.params

    def in_fp32(good: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
        return pytorch(good.float(), bad.float(), params)

    def on_sets(fn: Callable[..., torch.Tensor]) -> Call:
        def call(i: int) -> torch.Tensor:
            bad = inputs.hidden[i] @ inputs.head[i].T if setting.heads else inputs.bad[i]
            return fn(inputs.good[i], bad)

        return call

    found: dict[str, Call | str] = {
        "reference": lambda i: draw(inputs, params, i, "reference"),
        "pytorch": on_sets(in_fp32),
        "torch.compile": "compiled at the main points only",
        "flashinfer": flashinfer(setting, inputs),
    }
    main = (setting.rows, setting.vocab) in MAIN and setting.dtype is torch.bfloat16
    if main and not (setting.heads or setting.flat) and setting.alpha:
        torch.compiler.reset()  # past eight variants of a function it would no longer compile
        found["torch.compile"] = on_sets(torch.compile(in_fp32))
    if setting.rows * setting.vocab * EAGER_BYTES_PER_LOGIT > free_bytes:
        found |= {name: "skipped: memory" for name in ("reference", "pytorch", "torch.compile")}
    return found


def flashinfer(setting: Setting, inputs: Inputs) -> Call | str:
    """Its sampler on GOOD's logits alone, with the same truncation and without plausibility, which
    it does not have. It takes fp32, made beforehand."""
    try:
        from flashinfer.sampling import sampling_from_logits, top_k_top_p_sampling_from_logits
    except ImportError as error:
        return f"not importable: {error}"
    logits = [good.float() for good in inputs.good]
    top_k, top_p = setting.params.top_k or setting.vocab, setting.params.top_p
    if setting.truncation == "none":
        return lambda i: sampling_from_logits(logits[i])
    return lambda i: top_k_top_p_sampling_from_logits(logits[i], top_k, top_p)


def traffic(setting: Setting, drawn: SampleOutput) -> int:
    """Bytes that one draw must move."""
    from cdgen.kernels.gpu.sample_contrastive import sample_contrastive_bytes

    return sample_contrastive_bytes(
        setting.rows,
        setting.vocab,
        setting.dtype.itemsize,
        int(drawn.plausible.sum()),
        dense=setting.flat or setting.alpha == 0,
        width=WIDTH if setting.heads else 0,
        head_itemsize=setting.dtype.itemsize,
    )


def measure_setting(
    setting: Setting, bandwidth: float, l2: L2, with_baselines: bool
) -> dict[str, Any]:
    sets = sets_that_fit(setting.set_bytes)
    inputs = make_inputs(setting, sets, "cuda")
    triton = prepare(lambda i: draw(inputs, setting.params, i, "triton"), sets)
    drawn = triton.results
    check(drawn, inputs, setting.params)
    calls: dict[str, Call | str] = {"baselines": "skipped: time"}
    if with_baselines:
        torch.cuda.empty_cache()
        calls = baselines(setting, inputs, torch.cuda.mem_get_info()[0])
    others, skipped = prepare_baselines(calls, sets)
    contenders = {"triton": triton, **others}
    samples = time_in_turn(contenders, l2)
    us, nbytes = timings(contenders, samples), traffic(setting, drawn[0])

    def mean(field: str) -> float:
        return round(float(torch.stack([getattr(out, field) for out in drawn]).float().mean()), 1)

    return {
        "setting": str(setting),
        "rows": setting.rows,
        "vocab": setting.vocab,
        "mean_plausible": mean("plausible"),
        "mean_kept": mean("kept"),
        "bytes": nbytes,
        "percent_of_copy_bandwidth": percent_of(bandwidth, nbytes, us["triton"]["p50"]),
        "us": us,
        "over_triton": {name: median_ratio(samples[name], samples["triton"]) for name in others},
        "skipped": skipped,
    }


def measure() -> dict[str, Any]:
    start, bandwidth, l2 = time.monotonic(), copy_bandwidth(), L2()
    found = []
    for setting in sweep():
        torch.cuda.empty_cache()
        in_time = time.monotonic() - start < BASELINES_S
        found.append(measure_setting(setting, bandwidth, l2, in_time))
        print("  ".join(map(str, summary(found[-1]))), flush=True)
    return {
        "copy_bandwidth_gb_per_s": round(bandwidth / 1e9, 1),
        "bad_head_width": WIDTH,
        "seconds": round(time.monotonic() - start, 1),
        "settings": found,
    }


HEADINGS = ("setting", "plausible", "MB", "us", "p20", "p80", "% copy", "times slower")


def summary(found: dict[str, Any]) -> tuple[object, ...]:
    """A row of the table under `HEADINGS`."""
    us, megabytes = found["us"]["triton"], round(found["bytes"] / 1e6, 2)
    others = ", ".join(f"{name} {ratio}" for name, ratio in found["over_triton"].items())
    return (
        found["setting"], found["mean_plausible"], megabytes, us["p50"], us["p20"], us["p80"],
        found["percent_of_copy_bandwidth"], others,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    require_cuda()
    result = measure()
    write_result("gpu_sample_contrastive", result, args.out)
    print(table([HEADINGS, *map(summary, result["settings"])]))


if __name__ == "__main__":
    main()
