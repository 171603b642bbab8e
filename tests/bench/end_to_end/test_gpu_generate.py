"""What the generation benchmark computes beside what it times, on the CPU and small."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cdgen.bench.end_to_end import bench_gpu_generate
from cdgen.bench.end_to_end.bench_generate import PROMPT
from cdgen.bench.end_to_end.bench_gpu_generate import (
    by_part,
    check_graph,
    corpus_minutes,
    part_of,
    places_change_nothing,
    steady,
)
from cdgen.bench.end_to_end.gpu_generation_workload import (
    make_engine,
    paper_model,
    requests,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    good, bad = (paper_model(seed, "cpu", layers=2, width=64) for seed in (0, 1))
    return good, bad


def test_the_corpus_is_extrapolated_from_two_models_alone() -> None:
    found = {
        "contrast, 1024 slots": {"tokens_per_s": 108_089, "seconds": 60.1},
        "contrast, 4096 slots": {"failed": "OutOfMemoryError: ..."},
        "one model, 1024 slots": {"tokens_per_s": 300_000, "seconds": 15.0},
    }
    # 30,400 prompts x 8 x 400 = 97.28 M tokens at 108,089 per second are 900 s.
    assert corpus_minutes(found) == {"contrast, 1024 slots": 15.0}


@pytest.mark.parametrize(
    ("kernel", "part"),
    [
        ("_attend_single", "attention"),
        ("nvjet_tst_128x64_64x9_1x2_h_bz_TNN", "matrix products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32", "matrix products"),
        ("sample_kernel", "sampler"),
        ("rms_norm_kernel", "norms, rotary, activations"),
        ("void at::native::elementwise_kernel<...>", "others"),
    ],
)
def test_kernels_are_known_by_name(kernel: str, part: str) -> None:
    assert part_of(kernel) == part


def test_launches_and_times_are_those_of_one_step() -> None:
    def kernel(name: str, start: int, end: int) -> Any:
        times = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(name=name, time_range=times)

    two_steps = [
        kernel("_attend_single", 100, 140),
        kernel("_advance_slots", 142, 144),
        kernel("_attend_single", 150, 190),
        kernel("_advance_slots", 190, 193),
        kernel("Memcpy DtoD", 193, 194),
    ]
    assert by_part(two_steps, 2) == {
        "launches": 2.5,
        "launches_by_part": {"attention": 1.0, "bookkeeping": 1.0, "others": 0.5},
        "parts_us": {"attention": 40.0, "bookkeeping": 2.5, "others": 0.5, "gaps": 4.0},
    }


@pytest.mark.parametrize("kind", ["contrast", "vanilla", "dropout", "layers", "window"])
def test_every_kind_of_engine_runs(pair: tuple[Any, Any], kind: str) -> None:
    engine = make_engine(*pair, 16, kind=kind, new=6)
    check_graph(engine, PROMPT + 2)
    found = steady(engine, requests(32_000), seconds=0.05)
    assert found["tokens_per_s"] > 0 and found["seconds"] >= 0.05


def test_slots_that_trade_places_draw_the_same(pair: tuple[Any, Any]) -> None:
    assert places_change_nothing(make_engine(*pair, 16, new=6), PROMPT + 2)


def test_a_case_that_fails_is_recorded_and_the_next_one_is_measured(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = bench_gpu_generate.make_engine

    def no_dropout(*models: Any, kind: str = "contrast", **options: Any) -> Any:
        if kind == "dropout":
            raise RuntimeError("no such kernel")
        return make(*models, kind=kind, **options)

    monkeypatch.setattr(bench_gpu_generate, "make_engine", no_dropout)
    cases = {name: (16, {"kind": name, "new": 3}) for name in ("vanilla", "dropout", "contrast")}
    monkeypatch.setattr(bench_gpu_generate, "steady_cases", lambda slots: cases)
    found = dict(bench_gpu_generate.measure_steady(*pair, [16], 0.05))
    assert found["dropout"] == {"failed": "RuntimeError: no such kernel"}
    assert min(found[name]["tokens_per_s"] for name in ("vanilla", "contrast")) > 0
