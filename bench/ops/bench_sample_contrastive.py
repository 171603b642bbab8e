"""One draw for 64 rows of 16384 logits on the CPU: the native kernel against the eager reference,
against plain PyTorch, and against `good.amax(-1)`, which does nothing but read GOOD once.

    pytest bench/ops/bench_sample_contrastive.py --benchmark-enable
    python -m cdgen.bench.ops.bench_sample_contrastive --out OUT/cpu-sample-contrastive.json
    ... --instruction-set avx2 --out OUT/cpu-sample-contrastive-avx2.json

The first command prints a table per setting. The second times the contenders in turn, round after
round, so that other load on the machine affects all of them, and writes medians and ratios. Both
time a setting only after the kernel has drawn the reference's tokens on the same inputs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cdgen.bench.timing.environment import median_ratio, microseconds, write_result
from cdgen.kernels import reference
from cdgen.kernels.dispatch import native
from cdgen.kernels.sample_contrastive import sample_contrastive, sample_contrastive_heads
from cdgen.kernels.sampling_params import SampleOutput, SamplingParams

if TYPE_CHECKING:  # the GPU benchmarks borrow `pytorch` from here, where the plugin may be missing
    from pytest_benchmark.fixture import BenchmarkFixture

ROWS, VOCAB, WIDTH = 64, 16384, 256

SETTINGS = {
    "alpha 0.1": SamplingParams(),
    "alpha 0.1, top-k 200, top-p 0.95": SamplingParams(top_k=200, top_p=0.95),
    "alpha 0": SamplingParams(alpha=0.0),
    "alpha 0, top-k 200, top-p 0.95": SamplingParams(alpha=0.0, top_k=200, top_p=0.95),
}
CONTENDERS = ("native", "native heads", "head + native", "reference", "pytorch", "amax")

SAMPLE_S = 2e-3  # one timed sample repeats a call until it takes about this long


@dataclass(frozen=True)
class Inputs:
    """Random logits that are as peaked as a trained model's."""

    good: torch.Tensor  # [B, V] float32
    bad: torch.Tensor  # [B, V] = hidden @ head.T
    hidden: torch.Tensor  # [B, D]
    head: torch.Tensor  # [V, D]
    mean_plausible: float  # at alpha 0.1

    def coordinates(self) -> dict[str, Any]:
        rows = torch.arange(ROWS)
        return {"seed": 0, "sequence_ids": rows, "positions": 20 + rows}


def make_inputs() -> Inputs:
    """Make logits in which GOOD resembles BAD, scaled until GOOD's mean plausible set has about 15
    tokens (trained models have 5 to 30). Raises RuntimeError if the result is outside of it."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator)
    head = torch.randn(VOCAB, WIDTH, generator=generator) / WIDTH**0.5
    good = hidden @ head.T + torch.randn(ROWS, VOCAB, generator=generator)

    def mean_plausible() -> float:
        threshold = good.amax(-1, keepdim=True) + SETTINGS["alpha 0.1"].log_alpha
        return float((good >= threshold).sum(-1).float().mean())

    while mean_plausible() > 15:
        good, hidden = 1.05 * good, 1.05 * hidden
    if not 5 <= mean_plausible() <= 30:
        raise RuntimeError(f"mean plausible set: expected 5 to 30, got {mean_plausible():.1f}")
    bad = reference.linear(hidden, head, None)
    return Inputs(good, bad, hidden, head, mean_plausible())


def pytorch(good: torch.Tensor, bad: torch.Tensor, params: SamplingParams) -> torch.Tensor:  # [B]
    """Draw from the same distribution with library calls and PyTorch's own random numbers."""
    good_logp, bad_logp = good.log_softmax(-1), bad.log_softmax(-1)
    masked = good_logp < good_logp.amax(-1, keepdim=True) + params.log_alpha
    score = (good_logp - params.bad_weight * bad_logp).masked_fill(masked, float("-inf"))
    if not params.top_k and params.top_p == 1:
        return score.softmax(-1).multinomial(1)[:, 0]
    score, order = score.sort(dim=-1, descending=True)
    if params.top_k:
        score[:, params.top_k :] = float("-inf")
    p = score.softmax(-1)
    p = p.masked_fill(p.cumsum(-1) - p >= params.top_p, 0.0)
    return order.gather(-1, p.multinomial(1))[:, 0]


def contenders(inputs: Inputs, params: SamplingParams) -> dict[str, Callable[[], Any]]:
    good, bad, hidden, head = inputs.good, inputs.bad, inputs.hidden, inputs.head
    where = inputs.coordinates()
    calls = (
        lambda: sample_contrastive(good, bad, params, **where),
        lambda: sample_contrastive_heads(good, hidden, head, params, **where),
        lambda: sample_contrastive(good, hidden @ head.T, params, **where),
        lambda: sample_contrastive(good, bad, params, backend="reference", **where),
        lambda: pytorch(good, bad, params),
        lambda: good.amax(-1),
    )
    return dict(zip(CONTENDERS, calls, strict=True))


def check(calls: dict[str, Callable[[], Any]]) -> SampleOutput:
    """Return the reference's draws.

    Raises AssertionError unless the native kernel draws the same, and both forms of BAD's head
    differ in at most one row (their sums round in another order).
    """
    expected = calls["reference"]()
    out = calls["native"]()
    for field in ("tokens", "status", "plausible", "kept"):
        assert torch.equal(getattr(out, field), getattr(expected, field)), f"{field} differ"
    for name in ("native heads", "head + native"):
        differing = int((calls[name]().tokens != expected.tokens).sum())
        assert differing <= 1, f"{name}: {differing} of {ROWS} draws differ"
    return expected


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return make_inputs()


@pytest.mark.parametrize("name", CONTENDERS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_draw(benchmark: BenchmarkFixture, inputs: Inputs, setting: str, name: str) -> None:
    calls = contenders(inputs, SETTINGS[setting])
    drawn = check(calls)
    benchmark.group = f"({ROWS}, {VOCAB}) float32, {setting}"
    benchmark.extra_info |= {
        "mean_plausible": round(float(drawn.plausible.float().mean()), 1),
        "mean_kept": round(float(drawn.kept.float().mean()), 1),
    }
    benchmark(calls[name])


def seconds_per_call(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def calls_per_sample(call: Callable[[], Any]) -> int:
    fastest = min(seconds_per_call(call, 1) for _ in range(4))
    return max(1, round(SAMPLE_S / fastest))


def measure_setting(inputs: Inputs, params: SamplingParams, rounds: int) -> dict[str, Any]:
    calls = contenders(inputs, params)
    drawn = check(calls)
    repeats = {name: calls_per_sample(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(seconds_per_call(call, repeats[name]))

    def ratio(slow: str, fast: str) -> float:
        return median_ratio(samples[slow], samples[fast])

    return {
        "mean_plausible": round(float(drawn.plausible.float().mean()), 1),
        "mean_kept": round(float(drawn.kept.float().mean()), 1),
        "us": {name: microseconds(s) for name, s in samples.items()},
        "reference_over_native": ratio("reference", "native"),
        "pytorch_over_native": ratio("pytorch", "native"),
        "native_over_amax": ratio("native", "amax"),
        "heads_over_amax": ratio("native heads", "amax"),
        "head_in_full_over_heads": ratio("head + native", "native heads"),
    }


def measure(rounds: int) -> dict[str, Any]:
    inputs = make_inputs()
    return {
        "rows": ROWS,
        "vocab": VOCAB,
        "width": WIDTH,
        "dtype": "float32",
        "rounds": rounds,
        "mean_plausible_at_alpha_0.1": round(inputs.mean_plausible, 1),
        "settings": {
            setting: measure_setting(inputs, params, rounds) for setting, params in SETTINGS.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The CPU sampler against its baselines.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--instruction-set", help="avx512, avx2 or portable; the fastest if not given"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.instruction_set:
        native.set_instruction_set(args.instruction_set)
    write_result("sample_contrastive", measure(args.rounds), args.out)


if __name__ == "__main__":
    main()
