"""How GOOD and BAD run together: BAD by dropout, stacked models, and the path of a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM
from whole_text import (
    CAPACITY,
    CD,
    PARAMS,
    SEED,
    SLOTS,
    STOPPING,
    UNIVERSE,
    assert_same,
    by_id,
    load_lean,
    recompute_everything,
    some_requests,
    transformers_logits,
)

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.engine.sequences import Limits
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.kernels import reference
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.registry import lean_config

pytestmark = pytest.mark.usefixtures("one_thread")

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
    engine = SlotEngine(
        load_lean(stories260k.good, dropout=Dropout(RATE, SEED)),
        None,
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


@pytest.mark.parametrize("window", [1, 6])
def test_window_bad_is_a_band_mask_in_every_layer(window: int, stories260k: Any) -> None:
    """24 new tokens after up to nine: a ring of 6 turns over while the sequence is written."""
    model = AutoModelForCausalLM.from_pretrained(stories260k.good, dtype=torch.float32).eval()

    def masked(tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        in_view = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool)
        return model(tokens, attention_mask=in_view.tril().triu(1 - window)[None, None]).logits

    requests = some_requests(20, 512)  # more than there are slots
    engine = SlotEngine(
        load_lean(stories260k.good, window=window),
        None,
        EngineSettings(CD, Limits(24, (2,), False), SEED, 512, logprobs=True),
    )
    expected = recompute_everything(
        transformers_logits(stories260k.good), masked, requests, CD, new_tokens=24
    )
    assert_same(by_id(engine.generate(requests)), expected)


@pytest.mark.parametrize("name", ["cd", "cd-all-plausible"])
def test_models_stacked_in_one_decoder_write_what_they_write_apart(
    name: str, tiny_pair: Any, tiny_twin: Any
) -> None:
    folders = [open_checkpoint(folder) for folder in (tiny_pair.good, tiny_twin)]
    shape = lean_config(folders[0].config, CAPACITY)
    assert shape is not None
    tensors = [load_tensors(folder, torch.float32) for folder in folders]
    settings = EngineSettings(PARAMS[name], STOPPING, SEED, 48)
    apart = SlotEngine(load_lean(tiny_pair.good), load_lean(tiny_twin), settings)
    stacked = SlotEngine(Decoder(shape, tensors, SLOTS, CAPACITY), None, settings)
    expected = by_id(apart.generate(UNIVERSE))
    assert by_id(stacked.generate(UNIVERSE)) == expected
    assert {s.finish_reason for s in expected.values()} == {"eos", "length"}


# NumPy, under the interpreter, warns of what a GPU computes in silence: inf - inf.
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize(
    "kind",
    [
        "twin",
        pytest.param("two shapes", marks=pytest.mark.thorough),
        pytest.param("early exit", marks=pytest.mark.thorough),
        pytest.param("window", marks=pytest.mark.thorough),
    ],
)
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
        elif kind == "early exit":
            models = (load_lean(tiny_pair.good, 4, exit_layers=1), None)
        elif kind == "window":  # the longest prompt has 6 tokens
            models = (load_lean(tiny_pair.good, 4, window=3), None)
        else:
            models = (load_lean(tiny_pair.good, 4), load_lean(tiny_pair.bad, 4))
        options = {"steps": 2, "ahead": 2, "prefills": True} if on_gpu else {}
        engine = SlotEngine(*models, EngineSettings(CD, limits, SEED, 48, logprobs=True), **options)
        found.append(by_id(engine.generate(requests)))
    cpu, gpu = found
    for sequence_id, sequence in cpu.items():
        assert gpu[sequence_id].tokens == sequence.tokens
        assert gpu[sequence_id].good_logprob == pytest.approx(sequence.good_logprob, abs=1e-4)
