"""What rounding a cache does to a distribution: nothing where nothing is rounded, more with fp8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from cdgen.bench.ops import kv_dtype
from cdgen.bench.ops.kv_dtype import RoundedCache, log_probs, measure_model, windows
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
    row = windows(AutoTokenizer.from_pretrained(BAD), TEXT, 1, 24)
    exact = log_probs(model, row, DynamicCache())
    assert torch.equal(log_probs(model, row, RoundedCache(torch.float32)), exact)
    assert not torch.equal(log_probs(model, row, RoundedCache(torch.float8_e4m3fn)), exact)


def test_fp8_moves_the_distribution_further_than_bf16() -> None:
    found = measure_model(Path(BAD), TEXT, 2, 32)["kv_dtype"]
    assert 0 < 10 * found["bfloat16"]["kl_mean"] < found["float8_e4m3fn"]["kl_mean"] < 0.1
    assert {str(d).removeprefix("torch.") for d in kv_dtype.DTYPES} == set(found)
