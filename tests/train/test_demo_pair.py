"""The bundled pair is small, plain, and what its card says it is: a better and a worse model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PAIR = Path(__file__).parents[2] / "assets" / "demo-pair"
MEGABYTE = 1_000_000

# Written for this test, so that neither model has seen it.
STORY = (
    "Once upon a time there was a little fox who lived in a hollow tree. One day he found a shiny "
    'key in the snow. "Whose key is this?" he asked his mother. "I do not know," she said, "but we '
    'must find out." So they went to the village and asked everyone they met. At last an old woman '
    "smiled and thanked them, and gave them each a warm cake."
)


def test_the_pair_is_at_most_twelve_megabytes() -> None:
    assert sum(path.stat().st_size for path in PAIR.rglob("*") if path.is_file()) <= 12 * MEGABYTE


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_both_models_have_one_tokenizer(name: str) -> None:
    assert (PAIR / "good" / name).read_bytes() == (PAIR / "bad" / name).read_bytes()


def test_good_predicts_an_unseen_story_better_than_bad() -> None:
    tokens = AutoTokenizer.from_pretrained(PAIR / "good")(STORY, return_tensors="pt").input_ids
    losses = {}
    for role in ("good", "bad"):
        model = AutoModelForCausalLM.from_pretrained(PAIR / role, dtype=torch.float32)
        with torch.inference_mode():
            losses[role] = model(input_ids=tokens, labels=tokens).loss.item()
    assert losses["bad"] > losses["good"] + 0.3
