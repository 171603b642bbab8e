"""Words counted in packed blocks, and in the steps of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from toy_run import RECIPE, write_toy

from cdgen.train.config import Recipe
from cdgen.train.data.tokenizer import MADE, special_ids, train_sentencepiece, train_tokenizer
from cdgen.train.data.training_data import build_training_data
from cdgen.train.data.words import _BLOCKS_TOGETHER, count_words, words_read


@pytest.mark.parametrize("train", [train_tokenizer, train_sentencepiece])
def test_words_are_counted_across_blocks_and_documents(
    train: Callable[[list[str], int], Tokenizer],
) -> None:
    text = " ".join(["Once there was a cat called Tom."] * 40)
    tokenizer = train([text], 300)
    specials = special_ids(tokenizer)
    ids = [*tokenizer.encode(text).ids, specials.eos] * 2
    assert ids[0] == specials.bos
    assert specials.pad is not None
    ids += [~specials.pad] * (-len(ids) % 16)
    blocks = np.array(ids, dtype=np.int32).reshape(-1, 16)
    parts = -(-len(blocks) // _BLOCKS_TOGETHER)
    assert 560 <= count_words(tokenizer, MADE, blocks) < 560 + parts


def test_words_read_are_those_of_the_steps(tmp_path: Path) -> None:
    write_toy(tmp_path)
    data = build_training_data(Recipe.model_validate(RECIPE), tmp_path)
    words = words_read(data.mixture, data.epoch_words, 4)
    in_all = count_words(data.tokenizer, MADE, data.train[0])
    assert words(0) == 0
    assert words(100) == round(400 * in_all / len(data.train[0]))
