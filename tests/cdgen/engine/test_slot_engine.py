"""The slot engine against a loop that recomputes everything, and its promise about each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AttentionInterface, AutoModelForCausalLM

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.checkpoints.pretrained import load_causal_lm
from cdgen.engine.continuation import TextModel
from cdgen.engine.sequences import Limits, Request, Sequence, StepReport
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.engine.wave_engine import WaveEngine
from cdgen.kernels import reference
from cdgen.kernels.sampling_params import RowStatus, SamplingParams
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.registry import lean_config

pytestmark = pytest.mark.usefixtures("one_thread")

SEED = 0x5EED_0000_0001
SLOTS = 16
CAPACITY = 64
CD = SamplingParams(alpha=0.1)
PARAMS = {
    "cd": CD,
    "cd-half": SamplingParams(bad_weight=0.5, alpha=0.1),
    "cd-all-plausible": SamplingParams(alpha=0.0, min_p=0.05),
    "cd-truncated": SamplingParams(alpha=0.1, temperature=0.7, top_k=5, top_p=0.9),
    "cd-greedy": SamplingParams(alpha=0.1, temperature=0.0),
    "vanilla": SamplingParams(bad_weight=0.0, alpha=0.0),
    "plausible": SamplingParams(bad_weight=0.0, alpha=0.1),
}
Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # [B, T], ids [B] -> [B, T, V]


def load_lean(folder: Any, slots: int = SLOTS) -> Decoder:
    checkpoint = open_checkpoint(folder)
    shape = lean_config(checkpoint.config, CAPACITY)
    assert shape is not None
    return Decoder(shape, [load_tensors(checkpoint, torch.float32)], slots, CAPACITY)


def make_engine(
    pair: Any, params: SamplingParams, limits: Limits, logprobs: bool = False, **more: Any
) -> SlotEngine:
    good = load_lean(pair.good)
    bad = load_lean(pair.bad) if params.bad_weight else None
    return SlotEngine(
        good, bad, EngineSettings(params, limits, SEED, good.config.vocab_size, logprobs), **more
    )


def by_id(sequences: Iterator[Sequence]) -> dict[int, Sequence]:
    """Return the sequences by id; each must occur once."""
    found = list(sequences)
    table = {sequence.sequence_id: sequence for sequence in found}
    assert len(table) == len(found)
    return table


# ---- against a loop without a cache ------------------------------------------------------------


@dataclass
class Expected:
    """A sequence of the plain loop, with GOOD's summed log-probability and plausible-set sizes."""

    tokens: list[int]
    logprob: float = 0.0
    plausible: int = 0


@torch.inference_mode()
def recompute_everything(
    good: Logits,
    bad: Logits,
    requests: list[Request],
    params: SamplingParams,
    new_tokens: int,
) -> dict[int, Expected]:
    """Run both models over the whole text for every token, then draw with the reference. Rows are
    padded on the right, which no causal model can see."""
    rows = {request.sequence_id: Expected(list(request.prompt)) for request in requests}
    ids = torch.tensor(list(rows))
    for _ in range(new_tokens):
        lengths = torch.tensor([len(row.tokens) for row in rows.values()])
        tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
        for number, row in enumerate(rows.values()):
            tokens[number, : len(row.tokens)] = torch.tensor(row.tokens)
        last = (torch.arange(len(rows)), lengths - 1)
        good_logits, bad_logits = good(tokens, ids)[last], bad(tokens, ids)[last]
        out = reference.sample_contrastive(
            good_logits, bad_logits, params, SEED, ids, lengths, good_logits.shape[1]
        )
        assert (out.status == RowStatus.OK).all()
        logprobs = good_logits.double().log_softmax(-1)
        for number, row in enumerate(rows.values()):
            token = int(out.tokens[number])
            row.tokens.append(token)
            row.logprob += float(logprobs[number, token])
            row.plausible += int(out.plausible[number])
    return rows


def transformers_logits(folder: Any) -> Logits:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return lambda tokens, ids: model(tokens).logits


def some_requests(count: int, vocab_size: int) -> list[Request]:
    """Return requests with BOS and none to eight random tokens each; some ids need more than 32
    bits."""
    generator = torch.Generator().manual_seed(11)
    prompts = [
        [1, *torch.randint(3, vocab_size, (n % 9,), generator=generator).tolist()]
        for n in range(count)
    ]
    return [Request(n + (n % 3 << 40), prompt) for n, prompt in enumerate(prompts)]


def assert_same(found: dict[int, Sequence], expected: dict[int, Expected]) -> None:
    assert found.keys() == expected.keys()
    for sequence_id, row in expected.items():
        sequence = found[sequence_id]
        assert sequence.tokens == row.tokens, sequence_id
        assert sequence.finish_reason == "length"
        assert sequence.plausible == row.plausible
        assert sequence.good_logprob == pytest.approx(row.logprob, abs=1e-5 * sequence.new_tokens)


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


@pytest.mark.parametrize("name", PARAMS)
def test_generic_engine_writes_what_a_loop_without_a_cache_writes(
    name: str, tiny_gpt2_pair: Any
) -> None:
    params, requests = PARAMS[name], some_requests(20, 48)
    folders = (tiny_gpt2_pair.good, tiny_gpt2_pair.bad)
    good, bad = (TextModel.of(load_causal_lm(f, torch.float32), 48, 8) for f in folders)
    engine = WaveEngine(
        good,
        bad if params.bad_weight else None,
        SLOTS,
        EngineSettings(params, Limits(25, (1,), False), SEED, 48, logprobs=True),
    )
    expected = recompute_everything(
        transformers_logits(folders[0]), transformers_logits(folders[1]), requests, params, 25
    )
    assert_same(by_id(engine.generate(requests)), expected)


# ---- BAD as GOOD with attention dropout --------------------------------------------------------

RATE = 0.4


def attention_with_dropout(
    module: Any,
    query: torch.Tensor,  # [B, H, T, D]
    key: torch.Tensor,  # [B, Hkv, T, D]
    value: torch.Tensor,  # [B, Hkv, T, D]
    attention_mask: object,
    scaling: float,
    sequence_ids: torch.Tensor,  # [B]
    **unused: object,
) -> tuple[torch.Tensor, None]:  # [B, T, H, D]
    """Compute the reference's attention, one query position after the other."""
    heads, length = query.shape[1:3]
    outputs = []
    for position in range(length):
        lengths = torch.full_like(sequence_ids, position + 1)
        keep = reference.dropout_keep(
            SEED, RATE, module.layer_idx, sequence_ids, lengths, heads, length
        )
        outputs.append(
            reference.decode_attention(
                query[:, :, position], key, value, lengths, scaling, keep, RATE
            )
        )
    return torch.stack(outputs, dim=1), None


def test_dropout_bad_is_the_reference_in_every_layer(stories260k: Any) -> None:
    AttentionInterface.register("cdgen_dropout", attention_with_dropout)
    model = AutoModelForCausalLM.from_pretrained(
        stories260k.good, dtype=torch.float32, attn_implementation="cdgen_dropout"
    ).eval()
    requests = some_requests(6, 512)
    bad = load_lean(stories260k.good)
    bad.drop_attention(RATE, SEED)
    engine = SlotEngine(
        load_lean(stories260k.good),
        bad,
        EngineSettings(CD, Limits(16, (2,), False), SEED, 512, logprobs=True),
    )
    expected = recompute_everything(
        transformers_logits(stories260k.good),
        lambda tokens, ids: model(tokens, sequence_ids=ids).logits,
        requests,
        CD,
        new_tokens=16,
    )
    assert_same(by_id(engine.generate(requests)), expected)


# ---- a sequence is the same whatever else runs -------------------------------------------------

UNIVERSE = some_requests(48, 48)
STOPPING, GOING_ON = Limits(20, (1,), True), Limits(20, (1,), False)


@pytest.fixture(scope="module")
def alone(tiny_pair: Any) -> Callable[[Limits], dict[int, Sequence]]:
    """Return every sequence of UNIVERSE from a run of its own."""

    @cache
    def run(limits: Limits) -> dict[int, Sequence]:
        engine = make_engine(tiny_pair, CD, limits, logprobs=True)
        return by_id(sequence for r in UNIVERSE for sequence in engine.generate([r]))

    return run


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

POISON = 9  # a token whose embedding is NaN


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


def test_generic_engine_quarantines_alone(tiny_gpt2_pair: Any) -> None:
    folders = (tiny_gpt2_pair.good, tiny_gpt2_pair.bad)
    good, bad = (TextModel.of(load_causal_lm(f, torch.float32), 48, 8) for f in folders)
    engine = WaveEngine(good, bad, SLOTS, EngineSettings(CD, STOPPING, SEED, 48))
    clean = by_id(engine.generate(UNIVERSE))
    with torch.no_grad():
        bad.model.get_input_embeddings().weight[POISON] = math.nan
    found = by_id(engine.generate(UNIVERSE))
    quarantined = 0
    for sequence_id, sequence in clean.items():
        if POISON in sequence.tokens[:-1]:
            assert found[sequence_id].finish_reason == "quarantined"
            quarantined += 1
        else:
            assert found[sequence_id] == sequence
    assert 0 < quarantined < len(clean)


# ---- as on a GPU: several steps at a time, the host behind, prompts beforehand, stacked models --


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


@pytest.mark.parametrize("kind", ["twin", "dropout"])
@pytest.mark.parametrize("name", ["cd", "cd-all-plausible"])
def test_models_stacked_in_one_decoder_write_what_they_write_apart(
    kind: str, name: str, tiny_pair: Any, tiny_twin: Any
) -> None:
    good, seed = open_checkpoint(tiny_pair.good), SEED
    shape = lean_config(good.config, CAPACITY)
    assert shape is not None
    tensors = [load_tensors(good, torch.float32)]
    if kind == "twin":
        bad = load_lean(tiny_twin)
        tensors.append(load_tensors(open_checkpoint(tiny_twin), torch.float32))
        together = Decoder(shape, tensors, SLOTS, CAPACITY)
    else:
        bad = load_lean(tiny_pair.good)
        bad.drop_attention(RATE, seed)
        together = Decoder(shape, tensors, SLOTS, CAPACITY, dropout=Dropout(RATE, seed))
    apart = SlotEngine(
        load_lean(tiny_pair.good), bad, EngineSettings(PARAMS[name], STOPPING, seed, 48)
    )
    stacked = SlotEngine(together, None, EngineSettings(PARAMS[name], STOPPING, seed, 48))
    expected = by_id(apart.generate(UNIVERSE))
    assert by_id(stacked.generate(UNIVERSE)) == expected
    assert {s.finish_reason for s in expected.values()} == {"eos", "length"}


@pytest.mark.parametrize("kind", ["twin", "two shapes"])
def test_the_gpu_path_interpreted(
    kind: str,
    tiny_pair: Any,
    tiny_twin: Any,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole engine runs on Triton's kernels, with stacked models, a host two launches behind
    and prompts in batches. Sums run in another order, so tokens are the same except for near ties,
    and there are none."""
    monkeypatch.setattr("cdgen.engine.slot_engine.PREFILL_ROWS", 4)
    limits, requests, found = Limits(4, (1,), True), UNIVERSE[:6], []
    for on_gpu in (False, True):
        if on_gpu:
            request.getfixturevalue("as_on_a_gpu")
        if kind == "twin":
            folders = [open_checkpoint(folder) for folder in (tiny_pair.good, tiny_twin)]
            shape = lean_config(folders[0].config, CAPACITY)
            assert shape is not None
            tensors = [load_tensors(folder, torch.float32) for folder in folders]
            models = (Decoder(shape, tensors, 4, CAPACITY), None)
        else:
            models = (load_lean(tiny_pair.good, 4), load_lean(tiny_pair.bad, 4))
        options = {"steps": 2, "ahead": 2, "prefills": True} if on_gpu else {}
        engine = SlotEngine(*models, EngineSettings(CD, limits, SEED, 48, logprobs=True), **options)
        found.append(by_id(engine.generate(requests)))
    cpu, gpu = found
    for sequence_id, sequence in cpu.items():
        assert gpu[sequence_id].tokens == sequence.tokens
        assert gpu[sequence_id].good_logprob == pytest.approx(sequence.good_logprob, abs=1e-4)
