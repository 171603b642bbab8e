"""What is planned to lie in device memory, and the most slots that fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import paper_shape

from cdgen.engine.memory import GRAPHS_BYTES, MemoryNeeds, largest_slots, parameters, plan_memory
from cdgen.errors import ModelError
from cdgen.models.config import DecoderConfig
from cdgen.models.registry import lean_config

DEMO = Path(__file__).resolve().parents[3] / "assets" / "demo-pair" / "good"


PAPER = paper_shape()
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


def paper_needs(bad: DecoderConfig | None = PAPER, **changes: Any) -> MemoryNeeds:
    """Return the needs of the paper's pair in bf16 with 420 tokens a slot, with `changes` to the
    fields."""
    fields: dict[str, Any] = {"good": PAPER, "capacity": 420, "dtype_bytes": 2, "kv_bytes": 2}
    return MemoryNeeds(bad=bad, **(fields | changes))


def test_cache_of_the_papers_pair() -> None:
    """36 KiB per token and model in bf16: 31.7 GB for 1024 slots of 420 tokens."""
    plan = plan_memory(paper_needs(), 1024)
    assert plan["kv"] == 1024 * 420 * 2 * 36 * 1024
    assert round(plan["kv"] / 1e9, 1) == 31.7
    assert plan_memory(paper_needs(kv_bytes=1), 1024)["kv"] == plan["kv"] // 2


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
    padded_head = 112 * 8  # 100 columns of logits, rounded up to 112
    row = 4 * 8 + (3 * 2 + 2) * 4 + 3 * 10
    needs = MemoryNeeds(tiny, tiny, capacity=7, dtype_bytes=2, kv_bytes=1, prefill_tokens=48)
    assert plan_memory(needs, 16) == {
        "weights": 2 * 2 * (weights + padded_head),
        "kv": 16 * 7 * 2 * (2 * 2 * 4),
        "logits": 16 * 112 * (2 + 4),  # GOOD's, and fp32 scratch of the sampler
        "activations": 2 * (16 + 48) * 2 * 2 * row,  # of two layers; two models, two bytes
        "graphs": GRAPHS_BYTES,
    }


def test_an_early_exit_needs_the_samplers_scratch_and_nothing_else() -> None:
    alone, early = (plan_memory(paper_needs(None, exits_early=on), 64) for on in (False, True))
    assert early["logits"] - alone["logits"] == 64 * 32_000 * 4
    assert early | {"logits": alone["logits"]} == alone


def test_log_probabilities_are_taken_from_float64_copies_of_the_logits() -> None:
    plain, summed = (plan_memory(paper_needs(logprobs=on), 4096) for on in (False, True))
    assert summed["logits"] - plain["logits"] == 3 * 8 * 4096 * 32_000


def test_dropout_shares_the_weights_and_nothing_else() -> None:
    pair, dropped, alone = (
        plan_memory(paper_needs(bad, shared_weights=shared), 64)
        for bad, shared in ((PAPER, False), (PAPER, True), (None, False))
    )
    assert dropped["weights"] == alone["weights"] == pair["weights"] // 2
    assert {k: v for k, v in dropped.items() if k != "weights"} == {
        k: v for k, v in pair.items() if k != "weights"
    }
    assert dropped["kv"] == 2 * alone["kv"]


def test_a_window_costs_its_share_of_the_context() -> None:
    """GOOD's weights once, its cache of 420 tokens, and 70 more for BAD."""
    alone, window, dropped = (
        plan_memory(paper_needs(bad, shared_weights=True, bad_window=tokens), 64)
        for bad, tokens in ((None, 0), (PAPER, 70), (PAPER, 0))
    )
    assert window["kv"] == alone["kv"] * (420 + 70) // 420
    assert window | {"kv": dropped["kv"]} == dropped


needs_of_any_run = st.builds(
    MemoryNeeds,
    good=shapes,
    bad=st.none() | shapes,
    capacity=st.integers(1, 4096),
    dtype_bytes=st.just(2),
    kv_bytes=st.sampled_from([1, 2]),
    prefill_tokens=st.integers(0, 100),
)


@given(needs=needs_of_any_run, slots=st.integers(1, 500), more=st.integers(1, 500))
def test_more_slots_need_more(needs: MemoryNeeds, slots: int, more: int) -> None:
    few, many = (plan_memory(needs, n) for n in (slots, slots + more))
    assert all(few[part] <= many[part] for part in few)
    assert all(few[part] < many[part] for part in ("kv", "logits", "activations"))


@given(needs=needs_of_any_run, free_gib=st.floats(1, 141))
def test_the_largest_that_fits(needs: MemoryNeeds, free_gib: float) -> None:
    free = int(free_gib * 2**30)

    def needed(slots: int) -> int:
        return sum(plan_memory(needs, slots).values())

    try:
        slots = largest_slots(needs, free)
    except ModelError:
        assert needed(16) > 0.9 * free - 1
        return
    assert slots % 16 == 0 and 16 <= slots <= 4096
    assert needed(slots) <= 0.9 * free
    assert slots == 4096 or needed(slots + 16) > 0.9 * free - 1


def test_fp8_and_dropout_leave_room_for_more_slots() -> None:
    def slots(bad: DecoderConfig | None = PAPER, **changes: Any) -> int:
        return largest_slots(paper_needs(bad, capacity=256, **changes), 8 * 2**30)

    assert slots() < slots(shared_weights=True) < slots(kv_bytes=1)
    assert slots() < slots(bad=None)
    assert slots(prefill_tokens=50_000) < slots()


def test_too_little_memory_is_an_error_with_the_numbers() -> None:
    # 16 slots x 420 tokens x 72 KiB are 0.46 GiB; 2 x 162 M weights of 2 bytes 0.605 GiB.
    message = r"16 slots x 420 tokens need 1\.3\d GiB \(weights 0\.61, kv 0\.46, .*0\.90 GiB are"
    with pytest.raises(ModelError, match=message):
        largest_slots(paper_needs(), 2**30)
