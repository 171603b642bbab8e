"""What the benchmark of the kinds of BAD computes beside what it times, small."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cdgen.bench.end_to_end import bench_bad_kinds, bench_generate
from cdgen.bench.end_to_end.bench_bad_kinds import FORMATS, KINDS, formats, kinds, measure_size
from cdgen.bench.end_to_end.bench_generate import make_engine, run_engine
from cdgen.bench.end_to_end.gpu_generation_workload import paper_model
from cdgen.engine.sequences import Request

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    for module in (bench_bad_kinds, bench_generate):
        monkeypatch.setattr(module, "ROWS", 16)
    return [paper_model(seed, "cpu", layers=2, width=64) for seed in (0, 1)]


def test_every_kind_draws_a_text_of_its_own(pair: list[Any]) -> None:
    requests = [Request(i, [i + 1, 7]) for i in range(16)]
    texts = {
        kind: [s.tokens for s in make_engine(kind, *pair, new=8).generate(requests)]
        for kind in KINDS
    }
    for number, kind in enumerate(KINDS):
        assert all(texts[kind] != texts[other] for other in KINDS[:number]), kind


def test_rates_are_set_beside_good_alone(pair: list[Any]) -> None:
    found = measure_size(*pair, new=4, rounds=3, contenders=kinds())
    assert found["none"]["of_good_alone"] == 1.0
    for kind in KINDS:
        taken = sorted(found[kind]["seconds"])
        assert len(taken) == 3
        assert found[kind]["tokens_per_s"] == pytest.approx(16 * 4 / taken[1], rel=0.1)


def test_every_format_has_engines_of_its_own(pair: list[Any]) -> None:
    """Each decoder computes in its formats, with and without a BAD."""
    found = {}
    for name, kind in formats().items():
        good = make_engine(good=pair[0], bad=pair[1], new=4, **kind).good
        assert good.exit_layers == (1 if name.startswith("layers") else None)
        found[name] = good.head_weight().dtype, good.caches[0].keys.dtype
    assert sorted(map(str, found.values())) == sorted(map(str, (*FORMATS, *FORMATS)))


def test_a_row_that_is_not_sampled_is_no_rate(pair: list[Any]) -> None:
    engine = make_engine("none", *pair, new=4)
    engine.good.embedding[:] = float("nan")
    with pytest.raises(RuntimeError, match="a row could not be sampled"):
        run_engine(engine, torch.ones(16, 20, dtype=torch.int64))
