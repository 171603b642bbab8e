"""`custom_generate` draws the tokens of cdgen's own engine.

The logits of transformers and of cdgen's decoders differ by rounding. So a token must be the
engine's, unless the keys (score plus noise) of the two differ by less than KEY_EPSILON, by the
reference on transformers' logits of the whole text; the rest of such a row is not compared, and at
most one row in ten may end so.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

import cdgen
from cdgen.errors import UsageError
from cdgen.hf import contrastive_generate
from cdgen.kernels import reference

pytestmark = pytest.mark.usefixtures("one_thread")

KEY_EPSILON = 1e-3  # logits are near 10; two fp32 forward passes differ by some 1e-5
SEED, NEW = 0x5EED_0000_0001, 24
PROMPTS = [[1, 403, 407, 261], [1, 300], [1, 310, 320, 330, 340, 350, 360]]
SETTINGS: dict[str, dict[str, Any]] = {
    "cd": {},
    "truncated": {
        **{"contrast": 0.7, "alpha": 0.01, "temperature": 0.8},
        **{"top_k": 20, "top_p": 0.9, "min_p": 0.02},
    },
}


@pytest.fixture(params=["demo_pair", pytest.param("stories260k", marks=pytest.mark.data)])
def pair(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def padded(prompts: list[list[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts padded on the left, [B, P], and their mask."""
    length = max(map(len, prompts))
    tokens = [[pad] * (length - len(p)) + p for p in prompts]
    mask = [[0] * (length - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(tokens), torch.tensor(mask)


def generated(good: Any, bad: Any, prompts: list[list[int]], **more: Any) -> list[list[int]]:
    """Return prompt and continuation of every row, without the padding before it."""
    tokens, mask = padded(prompts)
    given = {"do_sample": True, "top_k": 0, "seed": SEED, "max_new_tokens": NEW} | more
    out = good.generate(
        tokens,
        attention_mask=mask,
        custom_generate=contrastive_generate,
        bad_model=bad,
        pad_token_id=0,
        **given,
    )
    copies = len(out) // len(prompts)
    starts = (tokens.shape[1] - mask.sum(1)).repeat_interleave(copies)
    return [row[int(start) :].tolist() for row, start in zip(out, starts, strict=True)]


@torch.inference_mode()
def keys(good: Any, bad: Any, text: list[int], sequence_id: int, settings: Any) -> torch.Tensor:
    """Return score plus noise of the token after `text`, [V], before truncation."""
    tokens = torch.tensor([text])
    scores = [model(tokens).logits[:, -1] for model in (good, bad)]
    score = scores[0] - settings.get("contrast", 1.0) * scores[1]
    words = reference.random_words(
        SEED, torch.tensor([sequence_id]), torch.tensor([len(text)]), score.shape[1]
    )
    score = score / settings.get("temperature", 1.0)
    return (score + reference.gumbel_from_words(words))[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_are_those_of_the_engine(pair: Any, load_models: Any, name: str) -> None:
    good, bad = load_models(pair)
    settings, copies = SETTINGS[name], 4
    loaded = cdgen.load_pair(pair.good, pair.bad)
    ids = [[token % good.config.vocab_size for token in prompt] for prompt in PROMPTS]
    rows = loaded.generate(
        ids,
        progress=False,
        seed=SEED,
        num_sequences=copies,
        max_new_tokens=NEW,
        on_eos="continue",
        **settings,
    )
    found = generated(good, bad, ids, num_return_sequences=copies, eos_token_id=None, **settings)
    ended_early = 0
    for row, tokens in zip(rows, found, strict=True):
        assert len(tokens) == len(row.tokens)
        differing = [i for i, (a, b) in enumerate(zip(tokens, row.tokens, strict=True)) if a != b]
        if not differing:
            continue
        at, ended_early = differing[0], ended_early + 1
        key = keys(good, bad, tokens[:at], row.sequence_id, settings)
        assert abs(key[tokens[at]] - key[row.tokens[at]]) < KEY_EPSILON
    assert ended_early * 10 <= len(found)


@pytest.fixture
def demo(load_models: Any, demo_pair: Any) -> tuple[Any, Any]:
    models: tuple[Any, Any] = load_models(demo_pair)
    return models


def test_a_row_depends_neither_on_its_neighbours_nor_on_padding(demo: tuple[Any, Any]) -> None:
    together = generated(*demo, PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        (alone,) = generated(*demo, [prompt], sequence_ids=torch.tensor([number]))
        assert alone == together[number][: len(alone)]


def test_draws_do_not_read_torchs_generator(demo: tuple[Any, Any]) -> None:
    state = torch.random.get_rng_state()
    first = generated(*demo, PROMPTS)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(5)
    assert generated(*demo, PROMPTS) == first
    assert generated(*demo, PROMPTS, seed=SEED + 1) != first


def test_greedy_and_goods_own_sampling(demo: tuple[Any, Any], demo_pair: Any) -> None:
    greedy = {"do_sample": False, "top_k": None}
    assert generated(*demo, PROMPTS, **greedy) == generated(*demo, PROMPTS, seed=1, **greedy)
    settings: Any = {"strategy": "plausible", "seed": SEED, "num_sequences": 1}
    pair = cdgen.load_pair(demo_pair.good)
    plausible = pair.generate(PROMPTS, progress=False, max_new_tokens=NEW, **settings)
    found = generated(demo[0], None, PROMPTS, eos_token_id=2)
    for row, tokens in zip(plausible, found, strict=True):
        assert tokens[: len(row.tokens)] == row.tokens


def test_finished_rows_are_padded(demo: tuple[Any, Any]) -> None:
    going_on = generated(*demo, PROMPTS, eos_token_id=None)
    end = going_on[0][len(PROMPTS[0]) + 4]  # the fifth token drawn in the first row
    stopped = generated(*demo, PROMPTS, eos_token_id=end)
    for prompt, row, whole in zip(PROMPTS, stopped, going_on, strict=True):
        drawn = whole[len(prompt) :]
        kept = drawn[: drawn.index(end) + 1] if end in drawn else drawn
        assert row[len(prompt) :][: len(kept)] == kept
        assert not any(row[len(prompt) + len(kept) :])


def test_processors_and_criteria_of_generate_count(demo: tuple[Any, Any]) -> None:
    class AfterThree(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return torch.full((len(input_ids),), input_ids.shape[1] >= 10)

    found = generated(
        *demo, PROMPTS, eos_token_id=None, stopping_criteria=StoppingCriteriaList([AfterThree()])
    )
    assert [len(row) for row in found] == [7, 5, 10]
    plain = generated(*demo, PROMPTS, eos_token_id=None)
    never = plain[0][len(PROMPTS[0])]
    without = generated(*demo, PROMPTS, eos_token_id=None, bad_words_ids=[[never]])
    assert never not in without[0][len(PROMPTS[0]) :]


def test_a_dictionary_is_returned_on_request(demo: tuple[Any, Any]) -> None:
    tokens, mask = padded(PROMPTS)
    out = demo[0].generate(
        tokens,
        attention_mask=mask,
        custom_generate=contrastive_generate,
        bad_model=demo[1],
        max_new_tokens=2,
        return_dict_in_generate=True,
    )
    assert out.sequences.shape == (3, 9)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"num_beams": 2}, "num_beams: expected 1, got 2"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
        ({"typical_p": 0.5}, "TypicalLogitsWarper: the sampler has"),
        ({"sequence_ids": torch.arange(2)}, "sequence_ids: expected .3. int64"),
    ],
)
def test_what_the_sampler_does_not_do_is_refused(
    demo: tuple[Any, Any], given: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        generated(*demo, PROMPTS, **given)


def test_a_row_that_cannot_be_sampled_is_named(demo: tuple[Any, Any]) -> None:
    good, bad = demo
    head = bad.get_output_embeddings().weight
    before = head.detach().clone()
    try:
        with torch.no_grad():
            head[:] = math.nan
        with pytest.raises(UsageError, match="sequence 0 cannot be sampled: bad not finite"):
            generated(good, bad, PROMPTS)
    finally:
        with torch.no_grad():
            head[:] = before


def test_cdgen_hf_is_found_as_an_attribute() -> None:
    assert cdgen.hf.contrastive_generate is contrastive_generate
    assert Path(cdgen.hf.__file__).name == "__init__.py"
