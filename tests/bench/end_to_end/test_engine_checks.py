"""Whether draws from another distribution, and tokens of another model, are found."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cdgen.bench.end_to_end.engine_checks import greedy_tokens, leading_agreement, surprise
from cdgen.bench.end_to_end.engine_process import EngineError
from cdgen.bench.end_to_end.engines.worker import GREEDY_TOKENS
from cdgen.bench.end_to_end.gpu_generation_workload import paper_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def good() -> Any:
    model = paper_model(0, "cpu", layers=1, width=64)
    model.lm_head.weight.data *= 10
    return model


def draws(good: Any, prompts: list[list[int]], **settings: Any) -> list[list[int]]:
    torch.manual_seed(1)
    ids = torch.tensor(prompts)
    out = good.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=0,
        max_new_tokens=16,
        do_sample=True,
        **settings,
    )
    return out[:, ids.shape[1] :].tolist()


PROMPTS = [[i, i + 1, i + 2] for i in range(16)]


def test_draws_from_good_are_no_surprise(good: Any) -> None:
    assert abs(surprise(good, PROMPTS, draws(good, PROMPTS, top_k=0))) < 3


@pytest.mark.parametrize("settings", [{"top_k": 50}, {"top_k": 0, "temperature": 0.8}], ids=str)
def test_draws_from_another_distribution_are_found(good: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="not from GOOD's distribution"):
        surprise(good, PROMPTS, draws(good, PROMPTS, **settings))


def test_another_model_is_found_by_its_greedy_tokens(good: Any) -> None:
    expected = greedy_tokens(good, PROMPTS)
    assert leading_agreement(expected, expected) == GREEDY_TOKENS
    late = [row[:4] + [-1] * (GREEDY_TOKENS - 4) for row in expected]
    assert leading_agreement(late, expected) == 4
    other = greedy_tokens(paper_model(1, "cpu", layers=1, width=64), PROMPTS)
    with pytest.raises(EngineError, match="greedy tokens differ"):
        leading_agreement(other, expected)
