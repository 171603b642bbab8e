"""What is planned to lie in device memory, and the most slots that fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import paper_shape

from cdgen.engine.memory import GRAPHS_BYTES, largest_slots, parameters, plan_memory
from cdgen.errors import ModelError
from cdgen.models.registry import lean_config

DEMO = Path(__file__).resolve().parents[3] / "assets" / "demo-pair" / "good"


shapes = st.builds(
    paper_shape,
    num_hidden_layers=st.integers(1, 40),
    hidden_size=st.integers(8, 4096),
    intermediate_size=st.integers(8, 8192),
    num_key_value_heads=st.sampled_from([1, 3, 12]),
    tie_word_embeddings=st.booleans(),
    activation=st.sampled_from(["silu", "erf"]),
)


def test_parameters_of_a_checkpoint() -> None:
    config = lean_config(json.loads((DEMO / "config.json").read_text()), 100)
    assert config is not None
    assert parameters(config) == 2_631_744  # assets/demo-pair/README.md


def test_cache_of_the_papers_pair() -> None:
    """36 KiB per token and model in bf16: 31.7 GB for 1024 slots of 420 tokens."""
    plan = plan_memory(paper_shape(), paper_shape(), 1024, 420, 2, 2, 32000)
    assert plan["kv"] == 1024 * 420 * 2 * 36 * 1024
    assert round(plan["kv"] / 1e9, 1) == 31.7
    assert (
        plan_memory(paper_shape(), paper_shape(), 1024, 420, 2, 1, 32000)["kv"] == plan["kv"] // 2
    )


def test_parts_by_hand() -> None:
    tiny = paper_shape(
        num_hidden_layers=2,
        hidden_size=8,
        intermediate_size=10,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        vocab_size=100,
    )
    weights = 2 * (2 * 8 * 4 * (2 + 1) + 3 * 8 * 10) + 2 * 100 * 8 + 5 * 8
    row = 4 * 8 + (3 * 2 + 2) * 4 + 3 * 10
    assert plan_memory(tiny, tiny, 16, 7, 2, 1, 104, prefill_tokens=48) == {
        "weights": 2 * 2 * weights,
        "kv": 16 * 7 * 2 * (2 * 2 * 4),
        "logits": 16 * 104 * (2 + 4),  # GOOD's, and fp32 scratch of the sampler
        "activations": (16 + 48) * 2 * 2 * row,
        "graphs": GRAPHS_BYTES,
    }


def test_dropout_shares_the_weights_and_nothing_else() -> None:
    pair, dropped, alone = (
        plan_memory(paper_shape(), bad, 64, 100, 2, 2, 32000, shared_weights=shared)
        for bad, shared in ((paper_shape(), False), (paper_shape(), True), (None, False))
    )
    assert dropped["weights"] == alone["weights"] == pair["weights"] // 2
    assert {k: v for k, v in dropped.items() if k != "weights"} == {
        k: v for k, v in pair.items() if k != "weights"
    }
    assert dropped["kv"] == 2 * alone["kv"]


@given(
    good=shapes, bad=st.none() | shapes, slots=st.integers(1, 500), more=st.integers(1, 500),
    capacity=st.integers(1, 4096), prompt=st.integers(1, 100),
)  # fmt: skip
def test_more_slots_need_more(
    good: Any, bad: Any, slots: int, more: int, capacity: int, prompt: int
) -> None:
    few, many = (
        plan_memory(good, bad, n, capacity, 2, 2, 32000, prefill_tokens=prompt)
        for n in (slots, slots + more)
    )
    assert all(few[part] <= many[part] for part in few)
    assert all(few[part] < many[part] for part in ("kv", "logits", "activations"))


@given(
    good=shapes, bad=st.none() | shapes, capacity=st.integers(1, 2048),
    free_gib=st.floats(1, 141), kv_bytes=st.sampled_from([1, 2]),
)  # fmt: skip
def test_the_largest_that_fits(
    good: Any, bad: Any, capacity: int, free_gib: float, kv_bytes: int
) -> None:
    free = int(free_gib * 2**30)

    def needed(slots: int) -> int:
        return sum(plan_memory(good, bad, slots, capacity, 2, kv_bytes, 32000).values())

    try:
        slots = largest_slots(free, good, bad, capacity, 2, kv_bytes, 32000)
    except ModelError:
        assert needed(16) > 0.9 * free - 1
        return
    assert slots % 16 == 0 and 16 <= slots <= 4096
    assert needed(slots) <= 0.9 * free
    assert slots == 4096 or needed(slots + 16) > 0.9 * free - 1


def test_fp8_and_dropout_leave_room_for_more_slots() -> None:
    def slots(bad: Any = None, **options: Any) -> int:
        kv_bytes = options.pop("kv_bytes", 2)
        return largest_slots(8 * 2**30, paper_shape(), bad, 256, 2, kv_bytes, 32000, **options)

    assert (
        slots(paper_shape())
        < slots(paper_shape(), shared_weights=True)
        < slots(paper_shape(), kv_bytes=1)
    )
    assert slots(paper_shape()) < slots()
    assert slots(paper_shape(), prefill_tokens=50_000) < slots(paper_shape())


def test_too_little_memory_is_an_error_with_the_numbers() -> None:
    # 16 slots x 420 tokens x 72 KiB are 0.46 GiB; 2 x 162 M weights of 2 bytes 0.605 GiB.
    message = r"16 slots x 420 tokens need 1\.3\d GiB \(weights 0\.61, kv 0\.46, .*0\.90 GiB are"
    with pytest.raises(ModelError, match=message):
        largest_slots(2**30, paper_shape(), paper_shape(), 420, 2, 2, 32000)
