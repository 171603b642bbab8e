"""Spans are the tokens that the BabyLM pipeline scores, whatever a tokenizer adds around a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from cdgen.errors import ModelError
from cdgen.eval.scoring.spans import SpanEncoder, Spans

BOS, EOS = 1, 2
TEXTS = [
    "The cat sleeps.",
    " a leading space",
    "   three, and a trailing one ",
    "naïve мама 猫が 🙂🙂 e\u0301",
    "un</s>ended <s>text</s>",
    "two\n\nlines\tand a\u2028separator",
    "",
    "a",
    " ",
]


def with_processor(folder: Path, processor: Any) -> Path:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processor
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def template(single: str) -> processors.TemplateProcessing:
    names = [("<pad>", 0), ("<s>", BOS), ("</s>", EOS)]
    return processors.TemplateProcessing(single=single, special_tokens=names)


@pytest.fixture(params=["bos", "nothing", "bos and eos", "eos", "bos before and pad", "real"])
def tokenizer_folder(
    request: pytest.FixtureRequest, llama: Path, copy_of: Callable[..., Path]
) -> Path:
    """Return tokenizers that put something before a text, after it, or nowhere."""
    if request.param == "real":  # puts "▁" before every text
        return Path(request.getfixturevalue("stories260k").good)
    processor = {
        "bos": template("<s> $A"),
        "nothing": processors.ByteLevel(),
        "bos and eos": template("<s> $A </s>"),
        "eos": template("$A </s>"),
        "bos before and pad": template("<s> <pad> $A"),
    }[request.param]
    return with_processor(copy_of(llama), processor)


def scored(spans: Spans, index: int) -> tuple[list[int], list[int]]:
    """Return the tokens of a sequence, and the positions of those that are scored."""
    counted = range(int(spans.first[index]), int(spans.last[index]) + 1)
    return spans.sequence(index).tolist(), list(counted)


def as_the_pipeline(tokenizer: Any, text: str, start: int) -> tuple[list[int], list[int]]:
    """Return the tokens and scored positions by the pipeline's mask: tokens after the first whose
    offset ends beyond `start`."""
    found = tokenizer(text, return_offsets_mapping=True)
    ends = [end for _, end in found["offset_mapping"]]
    return found["input_ids"], [i for i in range(1, len(ends)) if ends[i] > start]


def require_the_pipelines_span(
    encoder: SpanEncoder, tokenizer: Any, text: str, start: int, suffix: int
) -> None:
    """Check the span of a text, leaving out the `suffix` tokens that the tokenizer adds after it:
    their offsets never end beyond the text."""
    ids, counted = as_the_pipeline(tokenizer, text, start)
    ids = ids[: len(ids) - suffix]
    assert scored(encoder.endings([text], [start]), 0) == (ids or [0], counted)
    if start == 0:
        assert scored(encoder.whole([text]), 0) == (ids or [0], counted)


@pytest.mark.parametrize("text", TEXTS)
def test_the_pipelines_rule_at_every_character(tokenizer_folder: Path, text: str) -> None:
    encoder = SpanEncoder(tokenizer_folder, always_prefix=False, longest=None)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    suffix = len(tokenizer("")["input_ids"]) - len(encoder.prefix)
    for start in range(len(text) + 1):
        require_the_pipelines_span(encoder, tokenizer, text, start, suffix)


@pytest.mark.parametrize("name", ["good", "llama"])
def test_the_pipelines_rule_on_any_text(name: str, request: pytest.FixtureRequest) -> None:
    real = name == "good"
    folder = request.getfixturevalue("stories260k").good if real else request.getfixturevalue(name)
    encoder = SpanEncoder(folder, always_prefix=False, longest=None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = st.sampled_from([" ", "  ", "the", "cat", "é", "🙂", "</s>", "\n", ".", "▁", "Ġ"])
    texts = st.one_of(st.lists(pieces).map("".join), st.text(max_size=12))

    @settings(max_examples=150, deadline=None)
    @given(texts, st.floats(0, 1))
    def check(text: str, share: float) -> None:
        require_the_pipelines_span(encoder, tokenizer, text, round(share * len(text)), suffix=0)

    check()


def test_many_texts_come_in_order(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are encoded a few at a time, and each keeps its own start."""
    encoder = SpanEncoder(llama, always_prefix=True, longest=None)
    starts = [len(text) // 2 for text in TEXTS]
    whole, endings = encoder.whole(TEXTS), encoder.endings(TEXTS, starts)
    monkeypatch.setattr("cdgen.eval.scoring.spans._TEXTS_AT_ONCE", 2)
    for index, (text, start) in enumerate(zip(TEXTS, starts, strict=True)):
        assert scored(whole, index) == scored(encoder.whole([text]), 0)
        assert scored(endings, index) == scored(encoder.endings([text], [start]), 0)
    for before, after in (
        (whole, encoder.whole(TEXTS)),
        (endings, encoder.endings(TEXTS, starts)),
    ):
        for name in ("tokens", "offsets", "first", "last"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


# ---- what stands before a text -----------------------------------------------------------------


def test_always_prefix_scores_the_first_token_too(without_bos: Path, llama: Path) -> None:
    """With a tokenizer like GPT-2's, the pipeline scores all but the first token; the default
    scores all."""
    bare = SpanEncoder(without_bos, always_prefix=False, longest=None).whole(["The cat."])
    ids = SpanEncoder(without_bos, always_prefix=False, longest=None).token_ids("The cat.")
    assert scored(bare, 0) == (ids, list(range(1, len(ids))))
    given = SpanEncoder(without_bos, always_prefix=True, longest=None).whole(["The cat."])
    assert scored(given, 0) == ([BOS, *ids], list(range(1, len(ids) + 1)))
    own = SpanEncoder(llama, always_prefix=True, longest=None).whole(["The cat."])
    assert scored(own, 0) == scored(given, 0), "a tokenizer's own BOS is not put there twice"


def test_without_a_bos_token_eos_comes_first_or_nothing(without_bos: Path) -> None:
    path = without_bos / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["bos_token"]
    path.write_text(json.dumps(config))
    assert SpanEncoder(without_bos, always_prefix=True, longest=None).prefix == [EOS]
    del config["eos_token"]
    path.write_text(json.dumps(config))
    assert SpanEncoder(without_bos, always_prefix=True, longest=None).prefix == []


def test_a_text_of_one_token_behind_no_prefix_counts_nothing(without_bos: Path) -> None:
    encoder = SpanEncoder(without_bos, always_prefix=False, longest=None)
    spans = encoder.whole(["", "a"])
    assert [scored(spans, index)[1] for index in (0, 1)] == [[], []]
    assert len(spans.sequence(0)) == 1, "a model must be given some token"


def test_truncation_and_padding_that_a_tokenizer_was_saved_with_are_off(
    llama: Path, copy_of: Callable[..., Path]
) -> None:
    folder = copy_of(llama)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=30)
    tokenizer.save(str(folder / "tokenizer.json"))
    text = "A sentence of more than four tokens."
    found = SpanEncoder(folder, True, None).whole([text, "a"])
    expected = SpanEncoder(llama, True, None).whole([text, "a"])
    assert scored(found, 0) == scored(expected, 0)
    assert scored(found, 1) == scored(expected, 1)


@pytest.mark.parametrize("damage", ["missing", "no JSON", "only its settings"])
def test_a_folder_without_a_usable_tokenizer_is_named(
    llama: Path, copy_of: Callable[..., Path], damage: str
) -> None:
    folder = copy_of(llama)
    if damage == "no JSON":
        (folder / "tokenizer.json").write_text("{")
    else:
        (folder / "tokenizer.json").unlink()
    if damage == "missing":
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=str(folder)):
        SpanEncoder(folder, True, None)


# ---- context lengths ---------------------------------------------------------------------------


def test_cutting_keeps_the_end(llama: Path) -> None:
    short, long = "Short.", "one two three four five six seven eight nine ten"
    full = SpanEncoder(llama, True, None).endings([long, long, short], [len(long) - 4, 8, 0])
    cut = SpanEncoder(llama, True, longest=7).endings([long, long, short], [len(long) - 4, 8, 0])
    lost = len(full.sequence(0)) - 7
    assert lost > 2
    assert cut.lengths.tolist() == [7, 7, len(full.sequence(2))]
    ids, counted = scored(full, 0)
    assert scored(cut, 0) == (ids[lost:], [i - lost for i in counted]), "the same tokens count"
    assert scored(cut, 1) == (ids[lost:], [1, 2, 3, 4, 5, 6]), "what is left, but its first token"
    assert scored(cut, 2) == scored(full, 2)
    assert (full.cut, cut.cut) == (0, 2)


def test_a_text_as_long_as_the_context_is_not_cut(llama: Path) -> None:
    text = "one two three"
    length = len(SpanEncoder(llama, True, None).whole([text]).sequence(0))
    assert SpanEncoder(llama, True, longest=length).whole([text]).cut == 0
    assert SpanEncoder(llama, True, longest=length - 1).whole([text]).cut == 1


@pytest.mark.parametrize("longest", [None, 4])
def test_continuations_count_the_token_that_is_put_behind_a_text(
    llama: Path, longest: int | None
) -> None:
    encoder = SpanEncoder(llama, True, longest)
    texts = ["One long text of words", "a", ""]
    spans = encoder.continuations(texts, [11, 12, 13])
    for index, (text, token) in enumerate(zip(texts, (11, 12, 13), strict=True)):
        ids = [BOS, *encoder.token_ids(text), token][-(longest or 99) :]
        assert scored(spans, index) == (ids, [len(ids) - 1])


@pytest.mark.parametrize("prefix", [True, False])
def test_windows_cover_every_token_once_and_in_order(without_bos: Path, prefix: bool) -> None:
    encoder = SpanEncoder(without_bos, always_prefix=prefix, longest=None, window=5)
    spans, owners = encoder.windows(TEXTS)
    size = len(encoder.prefix)
    assert spans.cut == 0 and spans.lengths.max() == 5
    assert owners.tolist() == sorted(owners.tolist())
    for index, text in enumerate(TEXTS):
        mine = [spans.sequence(window).tolist() for window in np.flatnonzero(owners == index)]
        assert all(window[:size] == encoder.prefix and len(window) > size for window in mine)
        assert list(chain(*(window[size:] for window in mine))) == encoder.token_ids(text)
        assert all(len(window) == 5 for window in mine[:-1]), "no window but the last is short"
    # Without a prefix, the first token of a window has nothing to be predicted from.
    assert spans.first.tolist() == [1] * len(spans)
    assert (spans.last == spans.lengths - 1).all()
