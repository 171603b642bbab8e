"""The facts of a position against plain PyTorch on the logits of transformers."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_pair import PairFolders

from cdgen.checkpoints.bad_source import parse_bad
from cdgen.checkpoints.pair import open_pair
from cdgen.inspection.positions import Position, TokenSequence
from cdgen.inspection.reader import SequenceReader
from cdgen.inspection.strategies import Strategies
from cdgen.inspection.text import open_text, text_config, text_plan

pytestmark = pytest.mark.usefixtures("one_thread")

# fp32 sums in another order; log-probabilities here are 0 to -30 nats
TOLERANCE = {"rel_tol": 2e-5, "abs_tol": 2e-5}
TEXTS = ([0, 5, 9, 40, 3, 3, 17], [0, 8], [0, 30, 31, 32, 33, 1, 0, 12, 20])


def read(good: Path, bad: object, sequences: list[TokenSequence]) -> list[list[Position]]:
    config = text_config({"good": good, "bad": str(bad), "alpha": 0.2, "seed": 3})
    pair = open_pair(good, parse_bad(str(bad)))
    plan = text_plan(config, pair, max(len(sequence.tokens) for sequence in sequences))
    return SequenceReader.load(plan, pair, Strategies.of_plan(plan)).positions(sequences)


def logits_of(folder: Path, tokens: list[int]) -> torch.Tensor:  # [T - 1, V] float64
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens])).logits[0, :-1].double()


def require_facts(records: list[Position], good: Path, bad: Path, tokens: list[int]) -> None:
    """Assert what the records say, from the logits of transformers."""
    logits = logits_of(good, tokens)
    log_p, log_q = logits.log_softmax(-1), logits_of(bad, tokens).log_softmax(-1)
    assert [(r.index, r.token) for r in records] == list(enumerate(tokens))[1:]
    for i, record in enumerate(records):
        own = log_p[i, record.token]
        assert math.isclose(record.good_logprob, own, **TOLERANCE)
        assert record.bad_logprob is not None and record.difference is not None
        assert math.isclose(record.bad_logprob, log_q[i, record.token], **TOLERANCE)
        assert record.difference == record.good_logprob - record.bad_logprob
        assert record.rank == 1 + int((log_p[i] > own).sum())
        probability = log_p[i].exp()
        assert math.isclose(record.entropy, -(probability * log_p[i]).sum(), **TOLERANCE)
        plausible = probability >= 0.2 * probability.max()
        assert record.plausible == int(plausible.sum())
        assert record.is_plausible == bool(plausible[record.token])


def test_facts_of_random_models(tiny_pair: PairFolders) -> None:
    sequences = [TokenSequence(i, tokens) for i, tokens in enumerate(TEXTS)]
    found = read(tiny_pair.good, tiny_pair.bad, sequences)
    for records, tokens in zip(found, TEXTS, strict=True):
        require_facts(records, tiny_pair.good, tiny_pair.bad, tokens)


def test_facts_of_models_without_a_lean_decoder(tiny_gpt2_pair: PairFolders) -> None:
    (records,) = read(tiny_gpt2_pair.good, tiny_gpt2_pair.bad, [TokenSequence(0, TEXTS[0])])
    require_facts(records, tiny_gpt2_pair.good, tiny_gpt2_pair.bad, TEXTS[0])
    assert all(None not in vars(record.drawn).values() for record in records)


@pytest.mark.data
def test_facts_of_a_trained_pair(stories260k: SimpleNamespace) -> None:
    flags = {"good": stories260k.good, "bad": str(stories260k.bad), "alpha": 0.2}
    text = open_text("Once upon a time, there was a little girl named Café 🦊.", flags)
    reader = SequenceReader.load(text.plan, text.pair, text.strategies)
    (records,) = reader.positions([text.sequence])
    assert text.sequence.tokens[0] == 1  # BOS, as before a prompt
    require_facts(records, stories260k.good, stories260k.bad, list(text.sequence.tokens))
    assert {record.is_plausible for record in records} == {True, False}


def test_neighbours_and_batches_change_nothing(tiny_pair: PairFolders) -> None:
    """The noise is that of the sequence's own id, and 20 sequences go through 16 slots."""
    many = [TokenSequence(i, TEXTS[i % 3]) for i in range(20)]
    together = read(tiny_pair.good, tiny_pair.bad, many)
    for i in (1, 17):
        # The same capacity: a shorter one would be another shape.
        alone = read(tiny_pair.good, tiny_pair.bad, [many[i], TokenSequence(99, TEXTS[2])])
        assert alone[0] == together[i]
    assert together[0] != together[3]  # the same tokens, other noise


def test_without_bad_there_is_no_contrast(tiny_pair: PairFolders) -> None:
    (records,) = read(tiny_pair.good, "none", [TokenSequence(0, TEXTS[0])])
    for record in records:
        assert record.bad_logprob is record.difference is record.drawn.cd is None
        assert record.drawn.vanilla is not None


def test_nothing_is_read_for_no_sequence(tiny_pair: PairFolders) -> None:
    config = text_config({"good": tiny_pair.good})
    pair = open_pair(tiny_pair.good, parse_bad("none"))
    plan = text_plan(config, pair, 4)
    assert SequenceReader.load(plan, pair, Strategies.of_plan(plan)).positions([]) == []
