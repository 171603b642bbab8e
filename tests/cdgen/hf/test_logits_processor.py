"""The scores of the logits processor are those of the definition, step after step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList

from cdgen.hf import ContrastiveLogitsProcessor
from cdgen.kernels import reference
from cdgen.kernels.sampling_params import SamplingParams

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [[1, 546, 516, 261], [1, 303]]
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
PADDED = torch.tensor([[1, 546, 516, 261], [0, 0, 1, 303]])


class Recorded(ContrastiveLogitsProcessor):
    """Keeps what it was given, and what it returned."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        found = super().__call__(input_ids, scores)
        self.calls.append((input_ids, scores, found))
        return found


@pytest.fixture
def models(load_models: Any, demo_pair: Any) -> tuple[Any, Any]:
    found: tuple[Any, Any] = load_models(demo_pair)
    return found


def generate(good: Any, processor: Any, new: int = 6, **more: Any) -> torch.Tensor:
    tokens: torch.Tensor = good.generate(
        PADDED,
        attention_mask=MASK,
        logits_processor=LogitsProcessorList([processor]),
        max_new_tokens=new,
        min_new_tokens=new,
        **more,
    )
    return tokens


@torch.inference_mode()
def expected_scores(
    bad: Any, tokens: torch.Tensor, good_logits: torch.Tensor, contrast: float, alpha: float
) -> torch.Tensor:
    """Compute the scores of one row [T] without padding or a cache, in fp64."""
    good = good_logits.double().log_softmax(-1)
    other = bad(tokens[None]).logits[0, -1].double().log_softmax(-1)
    plausible = good.exp() >= alpha * good.exp().amax()
    return (good - contrast * other).where(plausible, -math.inf)


@pytest.mark.parametrize(("contrast", "alpha"), [(1.0, 0.1), (0.5, 0.01), (1.0, 0.0)])
def test_every_step_has_the_scores_of_the_whole_text(
    models: tuple[Any, Any], contrast: float, alpha: float
) -> None:
    good, bad = models
    processor = Recorded(bad, contrast, alpha)
    torch.manual_seed(0)
    generate(good, processor, do_sample=True, top_k=0)
    assert len(processor.calls) == 6
    for tokens, scores, found in processor.calls:
        for row, length in enumerate(map(len, PROMPTS)):
            text = tokens[row, 4 - length :]
            expected = expected_scores(bad, text, scores[row], contrast, alpha).float()
            assert (found[row].isinf() == expected.isinf()).all()
            kept = ~expected.isinf()
            torch.testing.assert_close(found[row][kept], expected[kept], atol=1e-4, rtol=0)


def test_the_plausible_set_and_the_best_token_are_those_of_the_reference(
    models: tuple[Any, Any],
) -> None:
    good, bad = models
    processor = Recorded(bad)
    generate(good, processor, do_sample=False)
    ids, params = torch.arange(2), SamplingParams(temperature=0.0)
    for tokens, scores, found in processor.calls:
        bad_logits = torch.stack(
            [bad(tokens[row, 4 - len(p) :][None]).logits[0, -1] for row, p in enumerate(PROMPTS)]
        )
        out = reference.sample_contrastive(scores, bad_logits, params, 0, ids, ids, 4096)
        assert (found > -math.inf).sum(-1).tolist() == out.plausible.tolist()
        assert found.argmax(-1).tolist() == out.tokens.tolist()


def test_bad_reads_one_token_per_step(models: tuple[Any, Any]) -> None:
    good, bad = models
    lengths: list[int] = []
    processor = ContrastiveLogitsProcessor(bad)
    hook = bad.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    generate(good, processor)
    hook.remove()
    assert lengths[-6:] == [4, 1, 1, 1, 1, 1]  # before them, padding is tried


def test_one_processor_serves_several_calls(models: tuple[Any, Any]) -> None:
    """Also if the second begins with one token more than the first ended with."""
    good, bad = models
    once = ContrastiveLogitsProcessor(bad)
    first = generate(good, once, new=1)
    longer = torch.tensor([[1, 303, 851, 967, 328], [1, 546, 516, 261, 438]])
    assert longer.shape[1] == first.shape[1]
    scores = torch.zeros(2, 4096)
    fresh = ContrastiveLogitsProcessor(bad)
    assert torch.equal(once(longer, scores), fresh(longer, scores))


def test_beams_that_change_places_are_followed(models: tuple[Any, Any]) -> None:
    good, bad = models
    processor = Recorded(bad)
    generate(good, processor, num_beams=3, do_sample=False)
    for tokens, scores, found in processor.calls:
        for row in range(6):
            text = tokens[row, 4 - len(PROMPTS[row // 3]) :]
            expected = expected_scores(bad, text, scores[row], 1.0, 0.1).float()
            kept = ~expected.isinf()
            torch.testing.assert_close(found[row][kept], expected[kept], atol=1e-4, rtol=0)


def test_tokens_that_one_model_lacks_are_never_drawn(models: tuple[Any, Any]) -> None:
    _, bad = models
    found = ContrastiveLogitsProcessor(bad, alpha=0.0)(PADDED, torch.zeros(2, 5000))
    assert found.shape == (2, 5000)
    assert (found[:, 4096:] == -math.inf).all()
    assert (found[:, :4096] > -math.inf).all()


@pytest.mark.parametrize("value", [{"alpha": -0.1}, {"alpha": 1.1}, {"contrast": -1.0}])
def test_values_outside_their_range_are_refused(
    models: tuple[Any, Any], value: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=next(iter(value))):
        ContrastiveLogitsProcessor(models[1], **value)
