"""What rounding does to a distribution: nothing where nothing is rounded, more with fewer bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from cdgen.bench.ops import kv_dtype
from cdgen.bench.ops.kv_dtype import (
    RoundedCache,
    change,
    logits_of,
    measure_model,
    windows,
)
from cdgen.cli.demo import ASSETS

pytestmark = pytest.mark.usefixtures("one_thread")
BAD, TEXT = ASSETS / "demo-pair/bad", str(ASSETS / "demo-prompts.txt")


def test_windows_are_the_texts_tokens_behind_bos() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BAD)
    rows = windows(tokenizer, TEXT, 2, 12)
    assert rows.shape == (2, 12) and rows[:, 0].tolist() == [tokenizer.bos_token_id] * 2
    documents = (ASSETS / "demo-prompts.txt").read_text(encoding="utf-8").splitlines()
    ids = [i for d in documents for i in tokenizer(d, add_special_tokens=False).input_ids]
    assert rows[:, 1:].flatten().tolist() == ids[:22]


@torch.inference_mode()
def test_a_cache_that_rounds_nothing_changes_nothing() -> None:
    model = AutoModelForCausalLM.from_pretrained(BAD, dtype=torch.float32).eval()
    rows = windows(AutoTokenizer.from_pretrained(BAD), TEXT, 1, 24)
    exact = logits_of(model, rows, [DynamicCache()])
    assert torch.equal(logits_of(model, rows, [RoundedCache(torch.float32)]), exact)
    assert set(change(exact, exact, rows).values()) == {0.0}
    for dtype in kv_dtype.CACHES:
        assert not torch.equal(logits_of(model, rows, [RoundedCache(dtype)]), exact)


def test_coarser_formats_move_the_distribution_further() -> None:
    """A number of a bf16 cache has 8 bits, of fp8 4; int8 is between: 8 bits of the largest."""
    found = measure_model(Path(BAD), TEXT, 16, 32)["formats"]
    kl = {name: numbers["kl_mean"] for name, numbers in found.items()}
    assert 0 < 3 * kl["cache bfloat16"] < kl["cache int8"] < kl["cache float8_e4m3fn"] / 3 < 0.03
    assert kl["cache bfloat16"] < kl["bfloat16, cache bfloat16"] < kl["all bfloat16"]
