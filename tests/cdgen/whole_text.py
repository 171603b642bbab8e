"""The plain loop that engines are compared with: it runs both models over the whole text for every
token, and draws with the reference. And the engines, requests and limits of these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.engine.sequences import Limits, Request, Sequence
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.kernels import reference
from cdgen.kernels.sampling_params import RowStatus, SamplingParams
from cdgen.models.decoder import Decoder
from cdgen.models.registry import lean_config

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


def load_lean(folder: Any, slots: int = SLOTS, **bad_of_good: Any) -> Decoder:
    checkpoint = open_checkpoint(folder)
    shape = lean_config(checkpoint.config, CAPACITY)
    assert shape is not None
    tensors = load_tensors(checkpoint, torch.float32)
    return Decoder(shape, [tensors], slots, CAPACITY, **bad_of_good)


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


UNIVERSE = some_requests(48, 48)
STOPPING, GOING_ON = Limits(20, (1,), True), Limits(20, (1,), False)
POISON = 9  # a token whose embedding is NaN
