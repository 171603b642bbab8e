"""The engine of models that run through transformers, against a loop that recomputes everything."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from whole_text import (
    CD,
    PARAMS,
    POISON,
    SEED,
    SLOTS,
    STOPPING,
    UNIVERSE,
    assert_same,
    by_id,
    recompute_everything,
    some_requests,
    transformers_logits,
)

from cdgen.checkpoints.pretrained import load_causal_lm
from cdgen.engine.continuation import TextModel
from cdgen.engine.sequences import Limits
from cdgen.engine.settings import EngineSettings
from cdgen.engine.wave_engine import WaveEngine

pytestmark = pytest.mark.usefixtures("one_thread")


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
