"""Decoders in bf16 and with other formats of the cache: how far off they are, and what may move a
bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import CONTEXT, SHAPE, SLOTS, Save, Saved, lean_logits, load_lean
from transformers import AutoModelForCausalLM, LlamaConfig

from cdgen.device import choose_dtypes
from cdgen.errors import UsageError
from cdgen.models.decoder import Dropout

NAMES = ("llama-biases", "qwen3", "gpt2", "neox", "llama-tied")


def has_bf16_products() -> bool:
    try:
        return choose_dtypes("bfloat16", "auto", "cpu", lean=True) == ("bfloat16", "bfloat16")
    except UsageError:
        return False


needs_bf16 = pytest.mark.skipif(
    not has_bf16_products(), reason="the processor has no bf16 products"
)
pytestmark = pytest.mark.usefixtures("one_thread")
FORMATS = [(torch.float32, torch.bfloat16), (torch.float32, torch.int8)]
if has_bf16_products():
    FORMATS += [(torch.bfloat16, x) for x in (torch.float32, torch.bfloat16, torch.int8)]
each_format = pytest.mark.parametrize(("dtype", "kv_dtype"), FORMATS, ids=str)


@torch.inference_mode()
def off_by(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the root mean square of the errors."""
    return float((found.float() - exact).pow(2).mean().sqrt())


@needs_bf16
@pytest.mark.parametrize("name", NAMES)
def test_bf16_is_no_further_off_than_transformers_in_bf16(name: str, saved: Saved) -> None:
    """Both round weights and products' operands; transformers rounds the residual stream too."""
    tokens = torch.randint(96, (SLOTS, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact, rounded = (
            AutoModelForCausalLM.from_pretrained(saved(name), dtype=dtype).eval()(tokens).logits
            for dtype in (torch.float32, torch.bfloat16)
        )
    found = lean_logits(load_lean(saved(name), dtype=torch.bfloat16), tokens)
    assert found.dtype is torch.float32
    assert 0 < off_by(found, exact) < off_by(rounded, exact)


@pytest.mark.parametrize("name", NAMES)
def test_caches_are_off_by_as_much_as_their_format_rounds(name: str, saved: Saved) -> None:
    """bf16 is off by up to 2^-9 of a number, int8 by up to 1 / 254 of the largest in its head."""
    tokens = torch.randint(96, (SLOTS, CONTEXT), generator=torch.Generator().manual_seed(1))
    exact = lean_logits(load_lean(saved(name)), tokens)
    errors = {
        kind: off_by(lean_logits(load_lean(saved(name), kv_dtype=kind), tokens), exact)
        for kind in (torch.float32, torch.bfloat16, torch.int8)
    }
    assert errors[torch.float32] == 0 < errors[torch.bfloat16] < 0.01 * float(exact.std())
    assert 0 < errors[torch.int8] < 0.03 * float(exact.std())


@each_format
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", ["llama-wide-heads", "gpt2", "neox"])
def test_no_bit_of_a_row_depends_on_the_others(
    name: str, dropout: float, dtype: torch.dtype, kv_dtype: torch.dtype, saved: Saved
) -> None:
    thinned = Dropout(dropout, seed=3) if dropout else None
    decoder = load_lean(saved(name), slots=48, dtype=dtype, kv_dtype=kv_dtype, dropout=thinned)
    tokens = torch.randint(96, (48, 12), generator=torch.Generator().manual_seed(5))
    logits = lean_logits(decoder, tokens)[-48:]  # BAD's rows, if there are any, come last
    strangers = torch.randint(96, (48, 12), generator=torch.Generator().manual_seed(6))
    strangers[31] = tokens[31]  # dropout's noise goes by sequence, which is the slot here
    assert torch.equal(lean_logits(decoder, strangers)[-48:][31], logits[31])
    if not dropout:
        assert torch.equal(lean_logits(decoder, tokens.flip(0)).flip(0), logits)


@each_format
def test_a_second_thread_moves_no_bit(
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    save_random: Save,
    set_threads: Callable[[int], None],
    tmp_path: Path,
) -> None:
    """The model is wide enough that every op of a step is shared by both threads."""
    broad = SHAPE | {"hidden_size": 512, "intermediate_size": 1024, "head_dim": 64}
    folder = save_random(LlamaConfig(**broad), tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    tokens = torch.randint(96, (64, 6), generator=torch.Generator().manual_seed(8))
    kinds: dict[str, Any] = {"slots": 64, "dtype": dtype, "kv_dtype": kv_dtype}
    alone = lean_logits(load_lean(folder, **kinds), tokens)
    set_threads(2)
    assert torch.equal(lean_logits(load_lean(folder, **kinds), tokens), alone)


@each_format
@pytest.mark.parametrize("name", ["llama", "gpt2", "neox"])
def test_an_early_exit_is_the_model_with_fewer_layers(
    name: str, dtype: torch.dtype, kv_dtype: torch.dtype, saved: Saved
) -> None:
    kinds: dict[str, Any] = {"dtype": dtype, "kv_dtype": kv_dtype}
    decoder, whole = load_lean(saved(name), exit_layers=2, **kinds), load_lean(saved(name), **kinds)
    short = load_lean(saved(name), **kinds)
    short.layers = short.layers[:2]
    tokens, ids = torch.arange(SLOTS), torch.arange(SLOTS)
    for position in range(5):
        at = torch.full_like(ids, position)
        with torch.inference_mode():
            hidden = decoder.forward(tokens, at, ids)
            expected = torch.cat([m.forward(tokens, at, ids) for m in (whole, short)])
        assert torch.equal(hidden, expected)
        tokens = (tokens * 7 + 3) % 96


def test_formats_that_a_cpu_does_not_have_are_refused(saved: Saved) -> None:
    for kinds in ({"dtype": torch.float16}, {"kv_dtype": torch.float8_e4m3fn}):
        with pytest.raises(ValueError, match="dtype: expected one of a CPU"):
            load_lean(saved("llama"), **kinds)
