"""The engine's scheduling alone: models that are scripts, so that every token is known before."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.engine import slot_engine
from cdgen.engine.sequences import Limits, Request, Sequence, StepReport
from cdgen.engine.settings import EngineSettings
from cdgen.engine.slot_engine import SlotEngine
from cdgen.kernels.sampling_params import RowStatus, SampleOutput, SamplingParams

pytestmark = pytest.mark.usefixtures("one_thread")

SLOTS, PROMPT, NEW, VOCAB = 16, 6, 12, 50
EOS, BROKEN = 1, 2  # scripted: the token EOS; a draw that fails


def scripted(sequence_id: int, position: int, seed: int) -> int:
    """Return the token that the script draws there: any token, EOS and BROKEN included."""
    return hash((sequence_id, position, seed)) % VOCAB


@pytest.fixture(autouse=True, scope="module")
def scripted_prefill() -> Iterator[None]:
    """Send prompts to the script as well, instead of its decoder's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slot_engine, "prefill", lambda script, *inputs: script.prefill(*inputs))
        yield


class Scripted:
    """A stand-in for `PairedModels` and its decoder that draws by a script.

    It checks that each sequence is fed the next token of its prompt, or the token drawn last,
    position by position.
    """

    def __init__(self, requests: list[Request], seed: int) -> None:
        self.requests = {r.sequence_id: r for r in requests}
        self.seed, self.vocab_size = seed, VOCAB
        self.good = self
        self.slots = self.rows = SLOTS
        self.models, self.capacity = 1, PROMPT + NEW
        self.device, self.config = torch.device("cpu"), SimpleNamespace(hidden_size=8)
        self.prefilled: dict[int, int] = {}  # sequence -> tokens in the cache beforehand
        self.fed: dict[int, int] = {}  # sequence -> positions fed

    def hidden(
        self, tokens: torch.Tensor, positions: torch.Tensor, ids: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        for token, position, sequence_id in zip(
            tokens.tolist(), positions.tolist(), ids.tolist(), strict=True
        ):
            if (token, position) == (0, 0) or sequence_id not in self.requests:
                continue  # an empty slot: no prompt here begins with token 0
            prompt = self.requests[sequence_id].prompt
            expected = self.fed.get(sequence_id, self.prefilled.get(sequence_id, 0))
            assert position == expected, "a position was left out or fed twice"
            self.fed[sequence_id] = position + 1
            drawn = scripted(sequence_id, position, self.seed)
            assert token == (prompt[position] if position < len(prompt) else drawn)
        return torch.zeros(SLOTS, 1), None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros(SLOTS, VOCAB)

    def sample(
        self, logits: torch.Tensor, bad: None, ids: torch.Tensor, positions: torch.Tensor
    ) -> SampleOutput:
        tokens = torch.tensor(
            [
                scripted(i, p, self.seed)
                for i, p in zip(ids.tolist(), positions.tolist(), strict=True)
            ]
        )
        broken = tokens == BROKEN
        return SampleOutput(
            tokens.masked_fill(broken, -1),
            torch.where(broken, int(RowStatus.GOOD_NOT_FINITE), int(RowStatus.OK)).to(torch.uint8),
            tokens.int(),
            tokens.int(),
        )

    def prefill(
        self, rows: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor, ids: torch.Tensor
    ) -> None:
        assert len(rows) % 64 == 0 and tokens.shape[1] == PROMPT - 1  # one shape, always
        for prompt, length, sequence_id in zip(
            tokens.tolist(), lengths.tolist(), ids.tolist(), strict=True
        ):
            if length == 0 and sequence_id not in self.requests:
                continue  # the engine trying it out
            assert prompt[:length] == self.requests[sequence_id].prompt[:-1]
            assert sequence_id not in self.fed
            self.prefilled[sequence_id] = length


def expected(request: Request, limits: Limits, seed: int) -> Sequence:
    tokens, plausible = list(request.prompt), 0
    while True:
        token = scripted(request.sequence_id, len(tokens), seed)
        if token == BROKEN:
            reason = "quarantined"
            break
        tokens.append(token)
        plausible += token
        if token in limits.stops:
            reason = "eos"
            break
        if len(tokens) - len(request.prompt) == limits.max_new_tokens:
            reason = "length"
            break
    return Sequence(request.sequence_id, tokens, len(request.prompt), reason, plausible)


PROMPTS = st.lists(
    st.lists(st.integers(3, VOCAB - 1), min_size=1, max_size=PROMPT), max_size=5 * SLOTS
)


@settings(max_examples=150, deadline=None)
@given(
    prompts=PROMPTS,
    seed=st.integers(0, 1000),
    stop=st.booleans(),
    steps=st.integers(1, 5),
    ahead=st.integers(0, 3),
    prefills=st.booleans(),
)
def test_every_sequence_is_written_once_as_the_script_has_it(
    prompts: list[list[int]], seed: int, stop: bool, steps: int, ahead: int, prefills: bool
) -> None:
    """This holds wherever sequences end, however far the host lags, and for any steps per
    launch."""
    requests = [Request(3 * n + 1, prompt) for n, prompt in enumerate(prompts)]
    limits, reports = Limits(NEW, (EOS,), stop), list[StepReport]()
    script = Scripted(requests, seed)
    engine = SlotEngine(
        script,
        None,
        EngineSettings(SamplingParams(), limits, 0, VOCAB),
        on_step=reports.append,
        steps=steps,
        ahead=ahead,
        prefills=prefills,
    )
    engine.slots.models = script  # type: ignore[assignment]
    found = list(engine.generate(iter(requests)))
    assert sorted(s.sequence_id for s in found) == [r.sequence_id for r in requests]
    by_id = {s.sequence_id: s for s in found}
    assert all(by_id[r.sequence_id] == expected(r, limits, seed) for r in requests)
    assert sum(r.drawn for r in reports) == sum(s.new_tokens for s in found)


def test_requests_are_asked_for_only_when_a_slot_is_free() -> None:
    """Requests may come from a file that is read on demand."""
    limits = Limits(NEW, (), False)
    asked: list[int] = []

    def requests() -> Iterator[Request]:
        for number in range(3 * SLOTS):
            asked.append(number)
            yield Request(number, [5])

    known = [Request(number, [5]) for number in range(3 * SLOTS)]
    script = Scripted(known, seed=0)
    engine = SlotEngine(script, None, EngineSettings(SamplingParams(), limits, 0, VOCAB))  # type: ignore[arg-type]
    engine.slots.models = script  # type: ignore[assignment]
    finished = 0
    for _ in engine.generate(requests()):
        finished += 1
        assert len(asked) <= SLOTS + finished + SLOTS
    assert finished == 3 * SLOTS
