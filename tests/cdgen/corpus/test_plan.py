"""The plan: its identity, and its division into ranges, shards and files."""

from __future__ import annotations

import json
from typing import Any

import pytest
import small_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cdgen.corpus.plan import Plan, PromptPlan, parse_plan
from cdgen.corpus.shard import Shard
from cdgen.differences import differences
from cdgen.errors import PlanMismatch, StorageError, UsageError

PROMPTS = PromptPlan(source_sha256="a" * 64, tokens_sha256="b" * 64, count=5, prompt_tokens=20)
SAMPLING = {  # whole numbers, as a YAML file may hold them
    "good_weight": 1,
    "bad_weight": 1,
    "alpha": 0.1,
    "temperature": 1,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
}


def make_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "libraries": {"torch": "2.13.0", "pyarrow": "26.0.1"},
        "bad": "d" * 64,
        "sampling": SAMPLING,
        "sequences_per_prompt": 8,
        "num_sequences": 40,
        "max_new_tokens": 400,
        "vocab_size": 512,
    }
    return small_corpus.make_plan(PROMPTS, **(fields | changes))


OTHER_VALUES: dict[str, Any] = {
    "cdgen_version": "0.2.0",
    "format": "jsonl",
    "libraries": {"torch": "2.12.0", "pyarrow": "26.0.1"},
    "good_sha256": "e" * 64,
    "bad": "dropout:0.5",
    "strategy": "plausible",
    "seed": 1,
    "max_new_tokens": 401,
    "on_eos": "continue",
    "eos_token_ids": [2, 3],
    "vocab_size": 511,
    "logprobs": True,
    "slots": 32,
    "range_size": 16,
    "dtype": "bfloat16",
    "device": "NVIDIA H200",
    "decoder": "transformers",
    "backend": "reference",
}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_every_field_changes_the_hash_and_is_named(field: str) -> None:
    old, new = make_plan(), make_plan(**{field: OTHER_VALUES[field]})
    assert old.sha256 != new.sha256
    (text,) = differences(old.fields, new.fields)
    assert text.startswith(field)


def test_nested_differences_show_both_values_and_shorten_hashes() -> None:
    old = make_plan()
    sampling = old.sampling.model_copy(update={"alpha": 0.2, "top_k": 200})
    prompts = old.prompts.model_copy(update={"source_sha256": "f" * 64})
    new = old.model_copy(update={"sampling": sampling, "prompts": prompts})
    assert differences(old.fields, new.fields) == [
        "prompts.source_sha256: was aaaaaaaaaaaa..., now ffffffffffff...",
        "sampling.alpha: was 0.1, now 0.2",
        "sampling.top_k: was 0, now 200",
    ]


def test_a_library_that_one_plan_lacks_is_named() -> None:
    texts = differences(
        make_plan().fields, make_plan(libraries={"torch": "2.13.0", "triton": "3.7"}).fields
    )
    assert texts == [
        "libraries.pyarrow: was 26.0.1, now (absent)",
        "libraries.triton: was (absent), now 3.7",
    ]


def test_the_plan_survives_json_and_is_independent_of_number_types() -> None:
    plan = make_plan()
    again = parse_plan(json.loads(json.dumps(plan.fields)), "here")
    assert again == plan
    assert again.sha256 == plan.sha256
    floats = plan.sampling.model_copy(update={"good_weight": 1.0, "temperature": 1.0})
    assert plan.model_copy(update={"sampling": floats}).sha256 == plan.sha256


def test_a_masked_score_is_in_the_plan_only_if_it_is_set() -> None:
    """So that corpora of earlier versions keep their hash."""
    plan = make_plan()
    assert "masked_score" not in plan.fields["sampling"]
    sampling = plan.sampling.model_copy(update={"masked_score": -20.0})
    masked = plan.model_copy(update={"sampling": sampling})
    assert differences(plan.fields, masked.fields) == [
        "sampling.masked_score: was (absent), now -20.0"
    ]
    assert parse_plan(masked.fields, "here") == masked


def test_the_deciding_libraries_are_recorded_by_default() -> None:
    fields = make_plan().fields
    del fields["libraries"]
    assert set(Plan.model_validate(fields).libraries) == {
        "torch",
        "transformers",
        "tokenizers",
        "pyarrow",
    }
    fields["format"] = "jsonl"
    assert set(Plan.model_validate(fields).libraries) == {"torch", "transformers", "tokenizers"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_sequences": 41}, "5 prompts x 8 = 40, got 41"),
        ({"range_size": 0}, "greater than or equal to 1"),
        ({"strategy": "beam"}, "'cd', 'vanilla' or 'plausible'"),
        ({"aplha": 0.1}, "Extra inputs"),
    ],
)
def test_impossible_plans(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        make_plan(**changes)


def test_a_plan_of_another_format_is_a_mismatch_and_nonsense_is_damage() -> None:
    with pytest.raises(PlanMismatch, match=r"corpus format 2, this cdgen writes 1"):
        parse_plan({**make_plan().fields, "format_version": 2}, "plan.json")
    with pytest.raises(StorageError, match=r"plan\.json is not a plan of this cdgen: seed"):
        parse_plan({**make_plan().fields, "seed": "x"}, "plan.json")


counts = st.integers(1, 300)


@settings(derandomize=True, deadline=None)
@given(counts, st.integers(1, 9), st.integers(1, 70), st.integers(1, 11))
def test_ranges_shards_and_files_partition_the_sequences(
    prompts: int, per_prompt: int, range_size: int, shards: int
) -> None:
    table = make_plan().prompts.model_copy(update={"count": prompts})
    plan = make_plan().model_copy(
        update={
            "prompts": table,
            "sequences_per_prompt": per_prompt,
            "num_sequences": prompts * per_prompt,
            "range_size": range_size,
        }
    )
    ids = [s for r in range(plan.num_ranges) for s in plan.sequence_ids(r)]
    assert ids == list(range(plan.num_sequences))
    assert [plan.prompt_id(s) for s in ids] == sorted([*range(prompts)] * per_prompt)
    taken = sorted(r for i in range(shards) for r in Shard(i, shards).ranges(plan.num_ranges))
    assert taken == list(range(plan.num_ranges))
    filed = [r for f in range(plan.num_files) for r in plan.file_ranges(f)]
    assert filed == list(range(plan.num_ranges))


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_shards_overlap_if_they_share_a_range(n: int, m: int, data: st.DataObject) -> None:
    a = Shard(data.draw(st.integers(0, n - 1)), n)
    b = Shard(data.draw(st.integers(0, m - 1)), m)
    share = any(a.owns(r) and b.owns(r) for r in range(n * m))
    assert a.overlaps(b) == b.overlaps(a) == share


def test_shard_texts() -> None:
    assert Shard.parse("0/1") == Shard(0, 1)
    assert str(Shard.parse("3/4")) == "3/4"
    for text in ("", "1", "4/4", "-1/4", "1/0", "a/b", "1/4/2", "1 / 4", "٣/٤"):
        with pytest.raises(UsageError, match="I from 0 to N-1"):
            Shard.parse(text)
