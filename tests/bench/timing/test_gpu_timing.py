"""The GPU benchmarks without a GPU: arithmetic, sweeps, turns; a wrong kernel is not timed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
import torch

from cdgen.bench.ops import (
    bench_gpu_decode_attention,
    bench_gpu_decoder_ops,
    bench_gpu_sample_contrastive,
    gpu_sampling_workload,
)
from cdgen.bench.ops.bench_sample_contrastive import pytorch
from cdgen.bench.ops.gpu_sampling_workload import Setting
from cdgen.bench.timing import environment, gpu_timing
from cdgen.bench.timing.gpu_timing import Prepared
from cdgen.kernels import reference
from cdgen.kernels.dispatch import NotBuilt
from cdgen.kernels.sampling_params import SampleOutput

# NumPy, under the interpreter, warns of what a GPU computes in silence: inf - inf.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

BENCHMARKS = (bench_gpu_sample_contrastive, bench_gpu_decode_attention, bench_gpu_decoder_ops)


def test_spread_is_in_microseconds() -> None:
    samples = [9e-6, 1e-6, 8e-6, 2e-6, 7e-6, 3e-6, 6e-6, 4e-6, 5e-6]
    assert environment.microseconds(samples) == {"p20": 2.0, "p50": 5.0, "p80": 8.0}


def test_ratio_is_over_rounds_that_both_took_part_in() -> None:
    assert environment.median_ratio([10.0, 30.0], [1.0, 2.0, 500.0]) == 12.5


def test_percent_of_bandwidth() -> None:
    assert gpu_timing.percent_of(4.0e12, 100_000_000, 50.0) == 50.0
    assert gpu_timing.percent_of(4.3e12, 1024 * 50257 * 2, 35.0) == 68.4


def test_sets_fit_memory_and_graphs_fit_a_sample() -> None:
    assert gpu_timing.sets_that_fit(0, 100) == gpu_timing.MOST_SETS
    assert gpu_timing.sets_that_fit(30, 100) == 3
    assert gpu_timing.sets_that_fit(101, 100) == 1
    assert gpu_timing.calls_per_sample(gpu_timing.SAMPLE_S / 4, sets=16) == 4
    assert gpu_timing.calls_per_sample(gpu_timing.SAMPLE_S / 4, sets=3) == 3
    assert gpu_timing.calls_per_sample(1.0, sets=16) == 1


def test_contenders_take_turns_until_their_time_is_used_up() -> None:
    turns: list[str] = []

    def taking(name: str, seconds: float) -> Any:
        def sample() -> float:
            turns.append(name)
            return seconds

        return sample

    samples = gpu_timing.in_turn(
        {"fast": taking("fast", 1 / 64), "slow": taking("slow", 1.0)},
        calls={"fast": 2, "slow": 1},
        rounds=20,
        budget_s=10 * 2 / 64,
    )
    both = ["fast", "slow"] * gpu_timing.FEWEST_ROUNDS
    assert turns == both + ["fast"] * (10 - gpu_timing.FEWEST_ROUNDS)
    assert samples == {"fast": [1 / 64] * 10, "slow": [1.0] * gpu_timing.FEWEST_ROUNDS}


def test_a_baseline_that_fails_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Prepared("graph", [], lambda: None)

    def prepare(call: Any, sets: int) -> Prepared:
        call(0)
        return ready

    def failing(error: Exception) -> Any:
        def call(i: int) -> None:
            raise error

        return call

    monkeypatch.setattr(gpu_timing, "prepare", prepare)
    prepared, skipped = gpu_timing.prepare_baselines(
        {
            "fine": lambda i: None,
            "absent": "not importable",
            "large": failing(torch.OutOfMemoryError("tried to allocate 1 EiB")),
            "broken": failing(ValueError("no such shape")),
        },
        sets=1,
    )
    assert prepared == {"fine": ready}
    assert skipped == {
        "absent": "not importable",
        "large": "skipped: out of memory",
        "broken": "failed: ValueError: no such shape",
    }


def test_poison_overwrites_tensors_and_draws() -> None:
    out = SampleOutput(
        torch.zeros(2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.uint8),
        torch.zeros(2, dtype=torch.int32),
        torch.zeros(2, dtype=torch.int32),
    )
    x = torch.zeros(3, dtype=torch.bfloat16)
    gpu_timing.poison([out, x])
    assert x.isnan().all()
    assert out.tokens.tolist() == [-77, -77] and out.status.tolist() == [177, 177]


def test_the_sampler_sweep_is_the_one_that_was_asked_for() -> None:
    settings = gpu_sampling_workload.sweep()
    assert len(settings) == len(set(settings))
    names = gpu_sampling_workload.TRUNCATIONS
    asked = itertools.product(
        (1, 32, 256, 1024, 4096), (16384, 32000, 50257, 128256), ("none", "top-k 200", "top-p 0.95")
    )
    assert {Setting(*shape) for shape in asked} <= set(settings)
    for variant in ({"dtype": torch.float32}, {"alpha": 0.0}, {"flat": True}):
        varied = {
            Setting(*shape, name, **variant)
            for shape in gpu_sampling_workload.MAIN
            for name in names
        }
        assert varied <= set(settings)
    assert Setting(1024, 50257, "none", heads=True) in settings
    params = Setting(1, 1, "top-k 200").params, Setting(1, 1, "top-p 0.95", alpha=0.0).params
    assert [(p.alpha, p.top_k, p.top_p) for p in params] == [(0.1, 200, 1.0), (0.0, 0, 0.95)]
    assert replace(settings[0], heads=True).set_bytes == 2 * (1024 * 50257 + 768 * (1024 + 50257))


def test_the_attention_sweep_is_the_one_that_was_asked_for() -> None:
    settings = bench_gpu_decode_attention.sweep()
    assert len(settings) == len(set(settings))
    assert {(s.models, s.kv_heads, s.context) for s in settings if not s.spread} == set(
        itertools.product((1, 2), (12, 4), (220, 512, 1024))
    )
    assert {64, 2048} <= {s.sequences for s in settings}
    spread = next(s for s in settings if s.spread)
    inputs = bench_gpu_decode_attention.make_inputs(replace(spread, sequences=99), 0, "cpu")
    assert int(inputs.lengths.min()) == 27 and int(inputs.lengths.max()) == 413
    assert float(inputs.lengths.float().mean()) == 220


SETTINGS = [
    Setting(3, 300, "none"),
    Setting(3, 300, "top-p 0.95", dtype=torch.float32),
    Setting(2, 300, "none", heads=True),
    Setting(1, 1100, "top-k 200", alpha=0.0),  # beyond what a row's list holds
    Setting(1, 1100, "none", flat=True),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_only_a_sampler_that_draws_as_the_reference_is_timed(setting: Setting, device: str) -> None:
    inputs = gpu_sampling_workload.make_inputs(setting, 1, device)
    params = setting.params
    out = gpu_sampling_workload.draw(inputs, params, 0, "triton")
    gpu_sampling_workload.check([out], inputs, params)
    if setting.flat or setting.alpha == 0:
        assert int(out.plausible.min()) == setting.vocab
    lowest = inputs.good[0].argmin(-1) if not setting.flat else (out.tokens + 1) % setting.vocab
    for wrong in (
        replace(out, tokens=lowest),
        replace(out, tokens=torch.full_like(out.tokens, -1)),
        replace(out, status=out.status + 1),
        replace(out, plausible=out.plausible + 1),
        replace(out, kept=out.kept - 2),
    ):
        with pytest.raises(AssertionError, match="set 0, row"):
            gpu_sampling_workload.check([wrong], inputs, params)


def test_tokens_whose_keys_tie_are_the_same_draw() -> None:
    setting = Setting(1, 40, "none", dtype=torch.float32)
    inputs = gpu_sampling_workload.make_inputs(setting, 1, "cpu")
    drawn = gpu_sampling_workload.draw(inputs, setting.params, 0, "reference")
    first, other = int(drawn.tokens[0]), (int(drawn.tokens[0]) + 1) % 40
    tokens = torch.tensor([first, other])
    # Both plausible and far ahead of the rest; BAD's logit of the other one places its key.
    inputs.good[0][0, tokens] = inputs.good[0].max()
    inputs.bad[0][0, tokens] = low = inputs.bad[0].min() - 9.0
    ahead = gpu_sampling_workload.keys(inputs, setting.params, 0, 0, tokens)
    for gap, same in ((1e-4, True), (1e-2, False)):  # of keys around 20
        inputs.bad[0][0, other] = low + float(ahead[1] - ahead[0]) + gap
        drawn = gpu_sampling_workload.draw(inputs, setting.params, 0, "reference")
        assert drawn.tokens.tolist() == [first]
        swapped = replace(drawn, tokens=torch.tensor([other]))
        if same:
            gpu_sampling_workload.check([swapped], inputs, setting.params)
        else:
            with pytest.raises(AssertionError, match="row 0: tokens"):
                gpu_sampling_workload.check([swapped], inputs, setting.params)


@pytest.mark.parametrize("name", gpu_sampling_workload.TRUNCATIONS)
def test_pytorch_by_hand_draws_what_the_reference_keeps(name: str) -> None:
    params = Setting(1, 1, name).params
    generator = torch.Generator().manual_seed(3)
    good, bad = 2 * torch.randn(2, 64, 1000, generator=generator)
    score = (good - bad).masked_fill(
        good < good.amax(-1, keepdim=True) + params.log_alpha, float("-inf")
    )
    keep = reference.truncate(score, params)
    torch.manual_seed(3)
    for _ in range(50):
        assert keep.gather(1, pytorch(good, bad, params)[:, None]).all()


def test_only_attention_that_attends_as_the_reference_is_timed(device: str) -> None:
    setting = bench_gpu_decode_attention.Setting(2, 2, 4, context=9, spread=True)
    inputs = [bench_gpu_decode_attention.make_inputs(setting, 0, device)]
    out = bench_gpu_decode_attention.attend(inputs[0])
    bench_gpu_decode_attention.check([out], inputs, chunk=3)
    beside = out.clone()
    beside[3] = out[2]
    for wrong in (beside, out * 1.01, torch.full_like(out, float("nan"))):
        with pytest.raises(AssertionError, match="relative error"):
            bench_gpu_decode_attention.check([wrong], inputs, chunk=3)


@pytest.mark.parametrize("kv_heads", [12, 4])
def test_attention_over_an_fp8_cache_is_held_to_its_own_numbers(device: str, kv_heads: int) -> None:
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs compute capability 8.9")
    setting = bench_gpu_decode_attention.Setting(2, 2, kv_heads, context=9)
    exact = bench_gpu_decode_attention.make_inputs(setting, 0, device)
    rounded = bench_gpu_decode_attention.in_fp8(exact)
    out = bench_gpu_decode_attention.attend(rounded)
    bench_gpu_decode_attention.check([out], [rounded])
    with pytest.raises(AssertionError, match="relative error"):
        bench_gpu_decode_attention.check([out], [exact])


@pytest.mark.parametrize("name", bench_gpu_decoder_ops.OPS)
def test_only_an_op_that_computes_as_the_reference_is_timed(name: str, device: str) -> None:
    op = bench_gpu_decoder_ops.make_op(name, models=2, sets=1, device=device, sequences=2)
    results = [op.call(0, "triton")]

    def launch() -> None:
        results[0] = op.call(0, "triton")

    bench_gpu_decoder_ops.check(op, Prepared("events", results, launch))

    def launch_wrong() -> None:
        launch()
        if op.written[0]:
            op.written[0][0][0] += 1  # what is returned may be right and what is written wrong
        else:
            results[0] = results[0] + 1

    with pytest.raises(AssertionError, match="set 0: off by"):
        bench_gpu_decoder_ops.check(op, Prepared("events", results, launch_wrong))


@pytest.mark.parametrize("benchmark_module", BENCHMARKS, ids=lambda m: m.__name__.split(".")[-1])
def test_without_a_gpu_there_is_one_line_and_status_2(
    benchmark_module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["bench_gpu.py"])
    with pytest.raises(SystemExit) as exit:
        benchmark_module.main()
    assert exit.value.code == 2
    assert capsys.readouterr() == ("", "bench_gpu: needs a CUDA device; there is none here\n")


def test_environment_of_a_machine_that_lacks_the_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(package: str) -> str:
        if package == "cdgen":
            raise PackageNotFoundError(package)
        return "1.2"

    monkeypatch.setattr("cdgen.kernels.dispatch.native", NotBuilt())
    monkeypatch.setattr("cdgen.machine.version", version)
    monkeypatch.setenv("PATH", "")  # no git
    found = environment.environment()
    assert found["kernels"] == "(not built)" and found["commit"] == "(no repository)"
    assert found["versions"]["cdgen"] == "(not installed)" and found["versions"]["torch"] == "1.2"
    assert ("gpu" in found) == torch.cuda.is_available()


@pytest.mark.gpu
def test_a_graph_is_timed_and_what_cannot_be_captured_is_launched_by_the_host() -> None:
    x = [torch.randn(2**20, device="cuda") for _ in range(3)]
    captured = gpu_timing.prepare(lambda i: x[i] * 2, sets=3)
    launched = gpu_timing.prepare(lambda i: x[i] * float(x[i].max().item()), sets=3)
    assert (captured.how, launched.how) == ("graph", "events")
    for i, result in enumerate(captured.results):
        assert torch.equal(result, x[i] * 2)
    samples = gpu_timing.time_in_turn({"a": captured, "b": launched}, gpu_timing.L2())
    assert min(samples["a"] + samples["b"]) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_small_setting_is_measured(setting: Setting) -> None:
    found = bench_gpu_sample_contrastive.measure_setting(
        setting, 1e12, gpu_timing.L2(), with_baselines=True
    )
    assert found["us"]["triton"]["how"] == "graph"
    assert found["over_triton"].keys() >= {"reference", "pytorch"}
    bench_gpu_sample_contrastive.summary(found)
