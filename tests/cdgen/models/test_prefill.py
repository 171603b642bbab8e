"""One decoder for several models, for GOOD and its dropout, and for whole prompts at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from grids import thinned
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, Qwen3Config

from cdgen.checkpoints.checkpoint import open_checkpoint
from cdgen.checkpoints.loading import load_tensors
from cdgen.models.config import DecoderConfig
from cdgen.models.decoder import Decoder, Dropout
from cdgen.models.prefill import prefill
from cdgen.models.registry import lean_config

pytestmark = pytest.mark.usefixtures("one_thread")

SLOTS, CAPACITY, STEPS = 16, 32, 12
# Logits have a standard deviation near 1: fp32 sums in another order move them by some 1e-6, a
# wrong key or value by 0.1 and more (tests/cdgen/models/test_decoder.py).
ATOL = 2e-5

COMMON: dict[str, Any] = {"vocab_size": 96, "bos_token_id": 0, "eos_token_id": 1}
SHAPE: dict[str, Any] = COMMON | {
    "hidden_size": 64,
    "intermediate_size": 104,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}
MODELS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "llama-tied": LlamaConfig(**GROUPED | {"tie_word_embeddings": True}),
    "qwen3": Qwen3Config(**GROUPED, head_dim=16),
    "gpt2": GPT2Config(**COMMON, n_embd=64, n_layer=3, n_head=4, n_positions=CAPACITY + 3),
    "neox": GPTNeoXConfig(**SHAPE),
    "neox-sequential": GPTNeoXConfig(**SHAPE, use_parallel_residual=False),
}
Tensors = dict[str, torch.Tensor]
Load = Callable[..., tuple[DecoderConfig, Tensors]]


@pytest.fixture(scope="module")
def load(save_random: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return the shape and tensors of one of MODELS, with weights drawn from a seed."""

    @cache
    def make(name: str, seed: int = 0) -> tuple[DecoderConfig, Tensors]:
        folder = save_random(MODELS[name], tmp_path_factory.mktemp("models") / name, seed=seed)
        (folder / "tokenizer.json").write_text("{}")
        checkpoint = open_checkpoint(folder)
        shape = lean_config(checkpoint.config, CAPACITY)
        assert shape is not None
        return shape, load_tensors(checkpoint, torch.float32)

    return make


def text(steps: int = STEPS) -> torch.Tensor:  # [B, T]
    return torch.randint(96, (SLOTS, steps), generator=torch.Generator().manual_seed(1))


IDS = torch.arange(SLOTS) * 1_000_003


@torch.inference_mode()
def fed(decoder: Decoder, tokens: torch.Tensor, first: int = 0) -> torch.Tensor:  # [T, R, D]
    """Return the hidden states of tokens [B, T], one step per column, from position `first` on."""
    steps = []
    for t in range(tokens.shape[1]):
        at = torch.full_like(IDS, first + t)
        steps.append(decoder.forward(tokens[:, t].contiguous(), at, IDS))
    return torch.stack(steps)


# ---- several models ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_two_stacked_models_are_the_two_alone(name: str, load: Load) -> None:
    shape, good = load(name)
    _, bad = load(name, seed=1)
    both = Decoder(shape, [good, bad], SLOTS, CAPACITY)
    assert (both.slots, both.rows) == (SLOTS, 2 * SLOTS)
    hidden = fed(both, text())
    for model, (tensors, own) in enumerate(zip((good, bad), hidden.split(SLOTS, 1), strict=True)):
        alone = Decoder(shape, [tensors], SLOTS, CAPACITY)
        assert torch.equal(own, fed(alone, text()))
        assert torch.equal(both.head_weight(model), alone.head_weight())
        assert torch.equal(both.logits(own[-1], model), alone.logits(own[-1]))


# ---- dropout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_dropout_leaves_goods_half_as_it_is(name: str, load: Load) -> None:
    shape, tensors = load(name)
    paired = Decoder(shape, [tensors], SLOTS, CAPACITY, dropout=Dropout(0.5, seed=9))
    assert paired.rows == 2 * SLOTS
    good = Decoder(shape, [tensors], SLOTS, CAPACITY)
    halves = fed(paired, text()).split(SLOTS, 1)
    assert torch.equal(halves[0], fed(good, text()))
    assert (halves[1] - halves[0]).abs().amax((0, 2)).min() > 0.01  # in every row


def test_dropout_has_one_model(load: Load) -> None:
    shape, tensors = load("llama")
    with pytest.raises(ValueError, match="expected one of them and one model, got 1 and 2"):
        Decoder(shape, [tensors] * 2, SLOTS, CAPACITY, dropout=Dropout(0.5, 0))


# ---- whole prompts -----------------------------------------------------------------------------

LENGTHS = torch.tensor([1, 3, 7, 5])
ROWS = torch.tensor([9, 0, 4, 15])


def prompts() -> torch.Tensor:  # [N, P]: what stands past a length is no token
    tokens = torch.randint(96, (4, 7), generator=torch.Generator().manual_seed(3))
    return tokens.masked_fill(torch.arange(7) >= LENGTHS[:, None], -1)


@torch.inference_mode()
def continued(decoder: Decoder, first: torch.Tensor) -> tuple[torch.Tensor, list[list[int]]]:
    """Return logits [T, N, V] and greedy tokens of GOOD in ROWS, each row from its own length
    on."""
    tokens, positions = torch.zeros_like(IDS), torch.zeros_like(IDS)
    tokens[ROWS], positions[ROWS] = first, LENGTHS
    logits, greedy = [], []
    for _ in range(8):
        hidden = decoder.forward(tokens, positions, IDS)
        step = torch.stack(
            [decoder.logits(own, 0)[ROWS] for own in hidden.split(decoder.slots)]
        ).flatten(0, 1)
        logits.append(step)
        tokens = torch.zeros_like(IDS)
        tokens[ROWS] = step[: len(ROWS)].argmax(-1)
        positions = positions + 1
        greedy.append(tokens[ROWS].tolist())
    return torch.stack(logits), greedy


@torch.inference_mode()
def feed_one_by_one(decoder: Decoder) -> None:
    """Feed the prompts through the slots; each row stops at its length."""
    prompt = prompts()
    for t in range(7):
        tokens, positions = torch.zeros_like(IDS), torch.full_like(IDS, CAPACITY - 1)
        reading = t < LENGTHS
        tokens[ROWS[reading]], positions[ROWS[reading]] = prompt[reading, t], t
        decoder.forward(tokens, positions, IDS)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["alone", "stacked", "paired"])
def test_prefill_is_feeding_one_by_one(name: str, kind: str, load: Load) -> None:
    shape, good = load(name)
    models = [good, load(name, seed=1)[1]] if kind == "stacked" else [good]
    dropout = Dropout(0.5, seed=9) if kind == "paired" else None
    slow, fast = (
        Decoder(shape, models, SLOTS, CAPACITY, dropout=dropout) for _ in ("slow", "fast")
    )
    feed_one_by_one(slow)
    for kept in fast.caches:
        kept.keys.fill_(float("nan"))  # whatever is read must have been written
    with torch.inference_mode():
        ids = IDS[ROWS] if kind == "paired" else None
        prefill(fast, ROWS, prompts(), LENGTHS, ids)
    others = [row for row in range(SLOTS) if row not in ROWS.tolist()]
    for kept in fast.caches:
        blocks = kept.keys.unflatten(1, (-1, SLOTS))
        assert blocks[:, :, others].isnan().all()
    first = torch.tensor([5, 6, 7, 8])
    expected, greedy = continued(slow, first)
    logits, tokens = continued(fast, first)
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=ATOL, rtol=0.0)
    assert tokens == greedy


def test_a_slot_given_twice_is_written_once(load: Load) -> None:
    shape, tensors = load("llama")
    once, twice = (Decoder(shape, [tensors], SLOTS, CAPACITY) for _ in range(2))
    with torch.inference_mode():
        prefill(once, ROWS, prompts(), LENGTHS)
        again = torch.tensor([0, 1, 2, 3, 3, 3, 3, 3])
        prefill(twice, ROWS[again], prompts()[again], LENGTHS[again])
    torch.testing.assert_close(twice.caches[0].keys, once.caches[0].keys, atol=ATOL, rtol=0.0)


def test_prefill_with_dropout_needs_sequence_ids(load: Load) -> None:
    shape, tensors = load("llama")
    decoder = Decoder(shape, [tensors], SLOTS, CAPACITY, dropout=Dropout(0.5, 0))
    with pytest.raises(ValueError, match="sequence_ids: expected"):
        prefill(decoder, ROWS, prompts(), LENGTHS)


# ---- where it runs -----------------------------------------------------------------------------


def test_an_int8_cache_is_refused(load: Load) -> None:
    shape, tensors = load("llama")
    decoder = Decoder(shape, [tensors], SLOTS, CAPACITY, kv_dtype=torch.int8)
    with pytest.raises(ValueError, match="decoder: expected a cache of floats, got int8"):
        prefill(decoder, ROWS, prompts(), LENGTHS)


@pytest.mark.parametrize(
    "kind, name",
    thinned(
        ["alone", "stacked", "paired", "window"],
        ["llama", "qwen3", "gpt2", "neox"],
        keep_every=2,
    ),
)
def test_the_gpu_path_interpreted(
    name: str, kind: str, load: Load, request: pytest.FixtureRequest
) -> None:
    shape, good = load(name)
    models = [good, load(name, seed=1)[1]] if kind == "stacked" else [good]
    dropout = Dropout(0.5, seed=9) if kind == "paired" else None
    window = 2 if kind == "window" else None  # the third token evicts the first
    tokens, ids, positions = text()[:4, :2].contiguous(), IDS[:4], torch.zeros_like(IDS[:4])
    results = []
    for fixture in (None, "as_on_a_gpu"):
        if fixture:
            request.getfixturevalue(fixture)
        decoder = Decoder(shape, models, 4, CAPACITY, dropout=dropout, window=window)
        with torch.inference_mode():
            prefill(decoder, torch.arange(4), tokens, positions + 2, ids)
            hidden = decoder.forward(tokens[:, 0].contiguous(), positions + 2, ids)
            results.append(torch.stack([decoder.logits(x) for x in hidden.split(4)]))
    torch.testing.assert_close(results[1], results[0], atol=ATOL, rtol=0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["stacked", "paired", "window"])
def test_cuda_logits_are_those_of_the_cpu(name: str, kind: str, load: Load) -> None:
    shape, good = load(name)
    models = [good, load(name, seed=1)[1]] if kind == "stacked" else [good]
    dropout = Dropout(0.5, seed=9) if kind == "paired" else None
    window = 4 if kind == "window" else None
    logits = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        decoder = Decoder(
            shape, models, SLOTS, CAPACITY, device=device, dropout=dropout, window=window
        )
        with torch.inference_mode():
            ids = IDS[ROWS].to(device)
            prefill(decoder, ROWS.to(device), prompts().to(device), LENGTHS.to(device), ids)
            tokens, positions = torch.zeros(2, SLOTS, dtype=torch.int64)
            tokens[ROWS], positions[ROWS] = torch.tensor([5, 6, 7, 8]), LENGTHS
            hidden = decoder.forward(tokens.to(device), positions.to(device), IDS.to(device))
            halves = zip(hidden.split(SLOTS), decoder.blocks.tolist(), strict=True)
            logits.append(torch.cat([decoder.logits(x, model).cpu() for x, model in halves]))
    torch.testing.assert_close(logits[1], logits[0], atol=ATOL, rtol=0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_cuda_in_16_bits(name: str, load: Load) -> None:
    """An fp8 cache runs as well, and comes near."""
    shape, good = load(name)
    exact = fed(Decoder(shape, [good], SLOTS, CAPACITY), text())[-1]
    cuda = torch.device("cuda")
    for kv_dtype, share in ((None, 0.05), (torch.float8_e4m3fn, 0.15)):
        decoder = Decoder(
            shape,
            [good, good],
            SLOTS,
            CAPACITY,
            device=cuda,
            dtype=torch.bfloat16,
            kv_dtype=kv_dtype,
        )
        for t in range(STEPS):
            column, at = text()[:, t].to(cuda), torch.full_like(IDS, t).to(cuda)
            with torch.inference_mode():
                hidden = decoder.forward(column, at, IDS.to(cuda)).cpu().float()
        # bf16 rounds by 2^-9, e4m3 by 2^-4, at some 30 places in a row; what is wrong is off by 1.
        for half in hidden.split(SLOTS):
            assert float((half - exact).norm() / exact.norm()) < share
