"""The rates of `transformers` on a GPU, on the CPU and small."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cdgen.bench.end_to_end import bench_gpu_transformers
from cdgen.bench.end_to_end.gpu_generation_workload import paper_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(bench_gpu_transformers, "NEW", 3)
    return [paper_model(seed, "cpu", layers=1, width=64).bfloat16() for seed in (0, 1)]


def test_a_case_that_fails_is_recorded_after_those_that_ran(
    pair: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> float:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(bench_gpu_transformers, "continuous_batching_rate", fail)
    found: dict[str, Any] = {}
    for found in bench_gpu_transformers.measure(*pair, rows=[2], batch=1):
        assert found["generate, 2 rows"] > 0
    assert found["generate_batch of one model, 1 rows"] == {
        "failed": "RuntimeError: no such kernel"
    }


def test_a_batch_that_returns_too_few_tokens_is_no_rate(pair: list[Any]) -> None:
    short = {"0": SimpleNamespace(generated_tokens=[1, 2])}
    model = SimpleNamespace(
        config=SimpleNamespace(vocab_size=8), generate_batch=lambda *_, **__: short
    )
    with pytest.raises(RuntimeError, match="expected 3 new tokens, got 2"):
        bench_gpu_transformers.continuous_batching_rate(model, 1)
