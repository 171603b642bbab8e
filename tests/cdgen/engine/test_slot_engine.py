"""The slot engine against a loop that recomputes everything, and its promise about each row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from whole_text import (
    CD,
    GOING_ON,
    PARAMS,
    POISON,
    SEED,
    SLOTS,
    STOPPING,
    UNIVERSE,
    assert_same,
    by_id,
    make_engine,
    recompute_everything,
    some_requests,
    transformers_logits,
)

from cdgen.engine.sequences import Limits, Request, Sequence, StepReport

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", PARAMS)
def test_real_pair_writes_what_a_loop_without_a_cache_writes(name: str, stories260k: Any) -> None:
    """There are more sequences than slots, so most slots are refilled."""
    params, requests = PARAMS[name], some_requests(20, 512)
    engine = make_engine(stories260k, params, Limits(30, (2,), False), logprobs=True)
    expected = recompute_everything(
        transformers_logits(stories260k.good),
        transformers_logits(stories260k.bad),
        requests,
        params,
        new_tokens=30,
    )
    assert_same(by_id(engine.generate(requests)), expected)


# ---- a sequence is the same whatever else runs -------------------------------------------------


def test_the_tiny_pair_ends_where_it_likes(alone: Callable[..., dict[int, Sequence]]) -> None:
    """The tests below need sequences that stop everywhere, and some that do not stop."""
    lengths = [s.new_tokens for s in alone(STOPPING).values()]
    reasons = {s.finish_reason for s in alone(STOPPING).values()}
    assert reasons == {"eos", "length"}
    assert len(set(lengths)) > 8
    mean = sum(s.plausible for s in alone(STOPPING).values()) / sum(lengths)
    assert 3 < mean < 10


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(indices=st.lists(st.integers(0, 47), unique=True, max_size=48), stop=st.booleans())
def test_order_and_company_change_nothing(
    indices: list[int], stop: bool, tiny_pair: Any, alone: Callable[..., dict[int, Sequence]]
) -> None:
    """Fewer or more sequences than slots, in any order, give the same tokens and the same bits."""
    limits = STOPPING if stop else GOING_ON
    engine = make_engine(tiny_pair, CD, limits, logprobs=True)
    found = by_id(engine.generate(UNIVERSE[index] for index in indices))
    assert found == {
        UNIVERSE[i].sequence_id: alone(limits)[UNIVERSE[i].sequence_id] for i in indices
    }


def test_one_engine_writes_range_after_range(
    tiny_pair: Any, alone: Callable[..., dict[int, Sequence]]
) -> None:
    """What an earlier range left in the caches is never read."""
    engine = make_engine(tiny_pair, CD, STOPPING, logprobs=True)
    first, second = UNIVERSE[:30], UNIVERSE[30:]
    assert by_id(engine.generate(first)) | by_id(engine.generate(second)) == alone(STOPPING)


def test_threads_change_nothing(
    tiny_pair: Any,
    alone: Callable[..., dict[int, Sequence]],
    set_threads: Callable[[int], None],
) -> None:
    expected = alone(STOPPING)
    set_threads(2)
    engine = make_engine(tiny_pair, CD, STOPPING, logprobs=True)
    assert by_id(engine.generate(UNIVERSE[:20])) == {
        r.sequence_id: expected[r.sequence_id] for r in UNIVERSE[:20]
    }


def test_no_sequence_at_all(tiny_pair: Any) -> None:
    assert list(make_engine(tiny_pair, CD, STOPPING).generate([])) == []


def test_seed_and_sequence_id_decide(tiny_pair: Any) -> None:
    limits = Limits(12, (), False)
    engine = make_engine(tiny_pair, CD, limits)
    same_prompt = [Request(n, [0, 5, 9]) for n in range(12)]
    texts = {n: tuple(s.tokens) for n, s in by_id(engine.generate(same_prompt)).items()}
    assert len(set(texts.values())) == 12
    other = replace(engine, settings=replace(engine.settings, seed=SEED + 1))
    assert all(texts[n] != tuple(s.tokens) for n, s in by_id(other.generate(same_prompt)).items())


# ---- where a sequence ends ---------------------------------------------------------------------


def test_eos_is_kept_and_ends_a_sequence_only_on_request(
    alone: Callable[..., dict[int, Sequence]],
) -> None:
    stopped, going_on = alone(STOPPING), alone(GOING_ON)
    for sequence_id, sequence in stopped.items():
        drawn = sequence.tokens[sequence.prompt_tokens :]
        assert (sequence.finish_reason == "eos") == (drawn[-1] == 1)
        assert 1 not in drawn[:-1]
        other = going_on[sequence_id]
        assert other.finish_reason == "length"
        assert other.new_tokens == 20
        assert other.tokens[: len(sequence.tokens)] == sequence.tokens


def test_any_eos_token_ends_a_sequence(
    tiny_pair: Any, alone: Callable[..., dict[int, Sequence]]
) -> None:
    stops = (1, 9, 17)
    engine = make_engine(tiny_pair, CD, Limits(20, stops, True))
    for sequence_id, sequence in by_id(engine.generate(UNIVERSE)).items():
        longer = alone(GOING_ON)[sequence_id].tokens
        drawn = longer[sequence.prompt_tokens :]
        end = next((n for n, token in enumerate(drawn, start=1) if token in stops), 20)
        assert sequence.tokens == longer[: sequence.prompt_tokens + end]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_max_new_tokens_cuts(
    limit: int, tiny_pair: Any, alone: Callable[..., dict[int, Sequence]]
) -> None:
    engine = make_engine(tiny_pair, CD, Limits(limit, (1,), False))
    for sequence_id, sequence in by_id(engine.generate(UNIVERSE)).items():
        assert sequence.new_tokens == limit
        assert sequence.finish_reason == "length"
        assert sequence.tokens == alone(GOING_ON)[sequence_id].tokens[: len(sequence.tokens)]


def test_reports_add_up(tiny_pair: Any) -> None:
    reports: list[StepReport] = []
    engine = make_engine(tiny_pair, CD, STOPPING, on_step=reports.append)
    found = by_id(engine.generate(UNIVERSE))
    assert sum(r.drawn for r in reports) == sum(s.new_tokens for s in found.values())
    assert sum(r.plausible for r in reports) == sum(s.plausible for s in found.values())
    assert all(r.drawn <= SLOTS for r in reports)


# ---- rows that cannot be sampled ---------------------------------------------------------------


@pytest.mark.parametrize("which", ["good", "bad"])
def test_a_row_that_cannot_be_sampled_is_quarantined_alone(
    which: str, tiny_pair: Any, alone: Callable[..., dict[int, Sequence]]
) -> None:
    engine = make_engine(tiny_pair, CD, STOPPING, logprobs=True)
    decoder = engine.good if which == "good" else engine.bad
    assert decoder is not None
    decoder.embedding = decoder.embedding.clone()
    decoder.embedding[POISON] = math.nan
    found = by_id(engine.generate(UNIVERSE))
    quarantined = 0
    for sequence_id, clean in alone(STOPPING).items():
        fed = clean.tokens[:-1]  # the last token is never fed
        if POISON not in fed:
            assert found[sequence_id] == clean
            continue
        quarantined += 1
        sequence, end = found[sequence_id], fed.index(POISON) + 1
        assert sequence.finish_reason == "quarantined"
        assert sequence.tokens == clean.tokens[: max(end, clean.prompt_tokens)]
    assert 5 <= quarantined <= 40


def test_a_prompt_that_cannot_be_sampled_gets_no_token(tiny_pair: Any) -> None:
    engine = make_engine(tiny_pair, CD, STOPPING, logprobs=True)
    engine.good.embedding = engine.good.embedding.clone()
    engine.good.embedding[POISON] = math.nan
    (sequence,) = engine.generate([Request(3, [0, POISON, 4])])
    assert sequence == Sequence(3, [0, POISON, 4], 3, "quarantined", 0, None)


# ---- as on a GPU: several steps at a time, the host behind, prompts beforehand ------------------


@pytest.mark.parametrize(("steps", "ahead"), [(1, 1), (4, 0), (4, 1), (3, 2)])
def test_steps_at_a_time_and_a_host_that_is_behind_change_nothing(
    steps: int, ahead: int, tiny_pair: Any, alone: Callable[..., dict[int, Sequence]]
) -> None:
    engine = make_engine(tiny_pair, CD, STOPPING, logprobs=True, steps=steps, ahead=ahead)
    assert by_id(engine.generate(UNIVERSE)) == alone(STOPPING)


def test_prompts_put_into_the_cache_beforehand(
    tiny_pair: Any, alone: Callable[..., dict[int, Sequence]]
) -> None:
    """Prefilled keys and values round differently: the tokens are the same, but not the bits."""
    engine = make_engine(tiny_pair, CD, STOPPING, logprobs=True, prefills=True)
    found = by_id(engine.generate(UNIVERSE))
    for sequence_id, sequence in alone(STOPPING).items():
        assert found[sequence_id].tokens == sequence.tokens
        assert found[sequence_id].good_logprob == pytest.approx(sequence.good_logprob, abs=1e-4)
