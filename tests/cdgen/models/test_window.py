"""BAD as GOOD that sees its last N tokens: the ring against a band mask of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import CONTEXT, MODELS, SLOTS, Saved, load_lean
from transformers import AutoModelForCausalLM

from cdgen.models.decoder import Decoder
from cdgen.models.kv_cache import KvCache
from cdgen.models.prefill import prefill

pytestmark = pytest.mark.usefixtures("one_thread")

ATOL = 2e-5  # as in test_decoder.py
IDS = torch.arange(SLOTS)


@torch.inference_mode()
def masked_logits(folder: Path, tokens: torch.Tensor, window: int) -> torch.Tensor:  # [B, T, V]
    """Return the logits of transformers with a mask that every layer obeys: position i attends to
    j if i - window < j <= i."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    length = tokens.shape[1]
    in_view = torch.ones(length, length, dtype=torch.bool).tril().triu(1 - window)
    mask = torch.zeros(length, length).masked_fill(~in_view, float("-inf"))
    return model(tokens, attention_mask=mask[None, None]).logits


@torch.inference_mode()
def both_logits(decoder: Decoder, tokens: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Return the logits [2, B, T, V] of GOOD and of BAD, token by token from position `first`
    on."""
    steps = []
    for t in range(tokens.shape[1]):
        at = torch.full_like(IDS, first + t)
        hidden = decoder.forward(tokens[:, t].contiguous(), at, IDS)
        steps.append(torch.stack([decoder.logits(half) for half in hidden.chunk(2)]))
    return torch.stack(steps, dim=2)


def text(length: int = CONTEXT, seed: int = 1) -> torch.Tensor:  # [B, T]
    return torch.randint(96, (SLOTS, length), generator=torch.Generator().manual_seed(seed))


# ---- against transformers ----------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 5, 13, 47])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gpt2", "neox", "neox-sequential"])
def test_bad_is_good_under_a_band_mask(name: str, window: int, saved: Saved) -> None:
    """48 tokens: the ring of 5 turns nine times over, that of 47 once."""
    folder = saved(name)
    good, bad = both_logits(load_lean(folder, window=window), text())
    torch.testing.assert_close(bad, masked_logits(folder, text(), window), atol=ATOL, rtol=0.0)
    assert torch.equal(good, both_logits(load_lean(folder, window=CONTEXT), text())[0])
    wider = masked_logits(folder, text(), window + 1)
    assert (bad[:, window:] - wider[:, window:]).abs().max() > 0.01


@pytest.mark.parametrize("name", MODELS)
def test_every_variant_has_a_window(name: str, saved: Saved) -> None:
    bad = both_logits(load_lean(saved(name), window=7), text(24))[1]
    torch.testing.assert_close(bad, masked_logits(saved(name), text(24), 7), atol=ATOL, rtol=0.0)


@pytest.mark.parametrize("window", [1, 8, 100])
def test_real_model_under_a_band_mask(window: int, stories260k: Any) -> None:
    folder = stories260k.good
    decoder = load_lean(folder, capacity=180, window=window)
    tokens = torch.randint(3, 512, (SLOTS, 1), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for position in range(179):  # the text that this BAD likes best
            hidden = decoder.forward(
                tokens[:, -1].contiguous(), torch.full_like(IDS, position), IDS
            )
            following = decoder.logits(hidden[SLOTS:]).argmax(-1)
            tokens = torch.cat([tokens, following[:, None]], dim=1)
    expected = masked_logits(folder, tokens, window)
    assert expected[:, :-1].argmax(-1).tolist() == tokens[:, 1:].tolist()


def test_a_window_as_long_as_the_text_is_good(saved: Saved) -> None:
    good, bad = both_logits(load_lean(saved("llama"), window=CONTEXT), text())
    assert torch.equal(good, bad)


@pytest.mark.parametrize("window", [0, -1, CONTEXT + 1])
def test_a_window_lies_within_the_context(window: int, saved: Saved) -> None:
    with pytest.raises(ValueError, match=f"window: expected 1 to {CONTEXT}, got {window}"):
        load_lean(saved("llama"), window=window)


def test_one_kind_of_bad_at_a_time(saved: Saved) -> None:
    with pytest.raises(ValueError, match="expected one of them and one model, got 2 and 1"):
        load_lean(saved("llama"), window=3, exit_layers=1)


# ---- a row depends on its own tokens alone -----------------------------------------------------


@torch.inference_mode()
def row_bits(
    decoder: Decoder, own: list[int], slot: int, first_step: int, neighbours: int
) -> torch.Tensor:  # [T, D] of BAD in `slot`
    """Feed `own` to `slot` from step `first_step` on; the slot and its neighbours held other
    sequences before, at random positions."""
    generator, found = torch.Generator().manual_seed(neighbours), []
    for step in range(first_step + len(own)):
        tokens = torch.randint(96, (decoder.slots,), generator=generator)
        positions = torch.randint(CONTEXT, (decoder.slots,), generator=generator)
        if step >= first_step:
            tokens[slot], positions[slot] = own[step - first_step], step - first_step
        hidden = decoder.forward(tokens, positions, torch.arange(decoder.slots))
        found.append(hidden[decoder.slots + slot].clone())
    return torch.stack(found[first_step:])


@pytest.mark.parametrize("name", ["llama-wide-heads", "gpt2", "neox"])
def test_no_bit_of_a_row_depends_on_the_others(
    name: str, saved: Saved, set_threads: Callable[[int], None]
) -> None:
    decoder = load_lean(saved(name), slots=48, window=5)
    own = torch.randint(96, (17,), generator=torch.Generator().manual_seed(5)).tolist()
    expected = row_bits(decoder, own, slot=0, first_step=0, neighbours=0)
    for slot, first_step, neighbours in [(0, 20, 1), (1, 0, 2), (7, 1, 3), (47, 11, 4)]:
        found = row_bits(decoder, own, slot, first_step, neighbours)
        assert torch.equal(found, expected), (slot, first_step)
    set_threads(2)
    assert torch.equal(row_bits(decoder, own, 3, 2, 5), expected)


def test_what_a_sequence_left_in_its_ring_is_never_read(saved: Saved) -> None:
    folder = saved("llama")
    clean = both_logits(load_lean(folder, window=6), text(20))
    used = load_lean(folder, window=6)
    for cache in used.caches:
        cache.keys.fill_(float("nan"))
        cache.values.fill_(float("nan"))
    assert torch.equal(both_logits(used, text(20)), clean)


# ---- whole prompts -----------------------------------------------------------------------------

LENGTHS = torch.tensor([1, 3, 7, 5, 11, 4])
ROWS = torch.tensor([9, 0, 4, 15, 2, 7])


@pytest.mark.parametrize("window", [1, 3, 4, 10, 11, 20])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "neox"])
def test_prefill_fills_the_ring(name: str, window: int, saved: Saved) -> None:
    """Prompts are shorter than the ring, as long, and longer, in one batch."""
    slow, fast = (load_lean(saved(name), window=window) for _ in range(2))
    prompts = text(11)[: len(ROWS)].masked_fill(torch.arange(11) >= LENGTHS[:, None], -1)
    with torch.inference_mode():
        for t in range(11):
            tokens, at = torch.zeros_like(IDS), torch.zeros_like(IDS)
            at[ROWS] = LENGTHS.clamp(max=t + 1) - 1  # a row that is done repeats its last token
            tokens[ROWS] = prompts.gather(1, at[ROWS][:, None])[:, 0]
            slow.forward(tokens, at, IDS)
        for cache in fast.caches:
            cache.keys.fill_(float("nan"))  # whatever is read must have been written
        prefill(fast, ROWS, prompts, LENGTHS)
        results = []
        for decoder in (slow, fast):
            logits = []
            for step in range(9):
                tokens, at = torch.zeros_like(IDS), torch.zeros_like(IDS)
                tokens[ROWS], at[ROWS] = text(9, seed=3)[: len(ROWS), step], LENGTHS + step
                hidden = decoder.forward(tokens, at, IDS)
                logits.append(torch.stack([decoder.logits(x)[ROWS] for x in hidden.chunk(2)]))
            results.append(torch.stack(logits))
    torch.testing.assert_close(results[1], results[0], atol=ATOL, rtol=0.0)


def test_an_fp8_ring_keeps_the_last_tokens(saved: Saved) -> None:
    shape = load_lean(saved("llama")).config
    cache = KvCache.of_zeros(shape, SLOTS, 3, torch.float8_e4m3fn, torch.device("cpu"))
    key = torch.arange(5.0).expand(1, shape.num_key_value_heads, shape.head_dim, 5).mT
    stored = key.to(torch.float8_e4m3fn)
    cache.write_texts(1, torch.tensor([6]), stored, stored, torch.tensor([5]))
    assert cache.keys[1, 6, 0, :, 0].float().tolist() == [3.0, 4.0, 2.0]
    assert not cache.keys[0].float().any()
