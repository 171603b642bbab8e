"""Models of transformers continue texts as its own greedy search does, whatever their state is
called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconMambaConfig,
    GPT2Config,
    Mamba2Config,
    MambaConfig,
    OpenAIGPTConfig,
    RwkvConfig,
)

from cdgen.engine.continuation import Continuation, TextModel, padding_is_exact
from cdgen.engine.sequences import Limits, Request
from cdgen.engine.settings import EngineSettings
from cdgen.engine.wave_engine import WaveEngine
from cdgen.kernels.sampling_params import SamplingParams

pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB, NEW = 48, 16
_IDS = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
CONFIGS = {
    "mamba": MambaConfig(hidden_size=32, num_hidden_layers=2, **_IDS),
    "falcon_mamba": FalconMambaConfig(hidden_size=32, num_hidden_layers=2, **_IDS),
    "mamba2": Mamba2Config(
        hidden_size=32, num_hidden_layers=2, num_heads=4, head_dim=16, n_groups=2, **_IDS
    ),
    "gpt-1": OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, n_positions=64, **_IDS),
    "rwkv": RwkvConfig(hidden_size=32, num_hidden_layers=2, context_length=64, **_IDS),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **_IDS),
}
EXACT_PADDING = {"gpt2", "gpt-1", "mamba2"}  # in transformers 5.17
STATES = {
    "mamba": {"cache_params"},
    "falcon_mamba": {"cache_params"},
    "mamba2": {"cache_params"},
    "gpt-1": set(),
    "rwkv": {"state"},
    "gpt2": {"past_key_values"},
}


def model(name: str) -> Any:
    """Return a model of random weights, large enough for greedy tokens to differ."""
    torch.manual_seed(3)
    found = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return found


def greedy_of_transformers(model: Any, prompt: list[int]) -> list[int]:
    tokens = torch.tensor([prompt])
    options = {"do_sample": False, "eos_token_id": None, "max_new_tokens": NEW}
    return model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)[0].tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_those_of_transformers(name: str) -> None:
    good = model(name)
    prompts = [[0, 5, 9, 12], [0, 7, 30, 2], [0, 40], [0, 3, 3, 3, 8, 21]]
    requests = [Request(number, prompt) for number, prompt in enumerate(prompts)]
    greedy = SamplingParams(bad_weight=0.0, alpha=0.0, temperature=0.0)
    settings = EngineSettings(greedy, Limits(NEW, (1,), False), 0, VOCAB)
    found = {
        s.sequence_id: s.tokens
        for s in WaveEngine(TextModel.of(good, VOCAB, 8), None, 16, settings).generate(requests)
    }
    expected = [greedy_of_transformers(good, prompt) for prompt in prompts]
    assert [found[number] for number in range(len(prompts))] == expected
    assert len({tuple(tokens[-NEW:]) for tokens in expected}) == len(prompts)


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_the_state_is_what_the_model_hands_back(name: str) -> None:
    good = model(name)
    asked = []
    good.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    carried, tokens = Continuation(TextModel(good, True)), torch.tensor([[0, 5, 9, 12]])
    carried.advance(tokens[:, :3])
    carried.advance(tokens)
    assert carried._state.keys() == STATES[name]
    assert asked == [3, 1 if STATES[name] else 4]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("length", [2, 8])
def test_a_state_is_carried_where_it_is_exact(name: str, length: int) -> None:
    """RWKV's mixes the rows of a batch in transformers 5.17."""
    assert TextModel.of(model(name), VOCAB, length).carries_state == (name not in ("gpt-1", "rwkv"))


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_padding_on_the_left_changes_no_logit_where_it_is_exact(name: str) -> None:
    of = TextModel.of(model(name), VOCAB, 8)
    assert padding_is_exact(of, VOCAB, 8) == (name in EXACT_PADDING)
    if name not in EXACT_PADDING:
        return
    texts = torch.tensor([[0, 5, 9, 12, 7, 30], [1, 1, 1, 0, 40, 8]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]])
    padded, bare = Continuation(of, mask), Continuation(of)
    for end in (4, 5, 6):
        found, alone = padded.advance(texts[:, :end]), bare.advance(texts[1:, 3:end])
        torch.testing.assert_close(found[1:], alone, atol=1e-4, rtol=1e-4)


def test_a_state_that_is_not_read_back_is_not_carried() -> None:
    """As in an encoder: after the first new token each row would follow from its last token."""
    good = model("gpt2")
    through = good.forward
    good.forward = lambda input_ids, past_key_values=None, **more: through(input_ids, **more)
    assert not TextModel.of(good, VOCAB, 8).carries_state
