"""Special tokens in documents are text, whatever the model of the tokenizer."""

from __future__ import annotations

import json

import pytest
from prompt_tokenizers import KINDS, TEXT
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from cdgen.corpus.special_marks import SpecialMarks, text_encoder

SPECIAL = ["<unk>", "<s>", "</s>"]


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*TEXT, "</s><s>"] * 20, trainer)
    return tokenizer


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "the": 3}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def whole_pieces() -> Tokenizer:
    """Return a tokenizer of Llama 3's kind: a piece that is in the vocabulary needs no merge."""
    spec = json.loads(KINDS["byte-level"].to_str())
    spec["model"]["ignore_merges"] = True
    spec["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    return Tokenizer.from_str(json.dumps(spec))


TOKENIZERS = {
    **KINDS,
    "unigram": unigram(),
    "whole words": word_level(),
    "whole pieces": whole_pieces(),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_what_is_spelled_out_is_text(kind: str) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZERS[kind].to_str())
    for token, name in ((1, "<s>"), (2, "</s>")):
        assert token in tokenizer.encode(f"the {name} the").ids
        assert token not in text_encoder(tokenizer).encode(f"the {name} the").ids


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_other_text_and_added_tokens_keep_their_ids(kind: str) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZERS[kind].to_str())
    tokenizer.add_tokens([AddedToken("CAT"), AddedToken("<tool>", special=True), AddedToken("DOG")])
    for text in (*TEXT, "the CAT DOG the", "猫 in 1984"):
        assert text_encoder(tokenizer).encode(text).ids == tokenizer.encode(text).ids
    dog = tokenizer.token_to_id("DOG")
    assert dog in text_encoder(tokenizer).encode("the DOG </s>").ids
    tool = tokenizer.token_to_id("<tool>")
    assert tool not in text_encoder(tokenizer).encode("the <tool> DOG").ids


def test_a_merge_may_name_a_special_token() -> None:
    spec = json.loads(KINDS["byte-level"].to_str())
    spec["model"]["vocab"]["<s>t"] = len(spec["model"]["vocab"])
    spec["model"]["merges"].append(["<s>", "t"])
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    assert text_encoder(tokenizer).encode("the cat").ids == tokenizer.encode("the cat").ids


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_marks_are_counted(kind: str) -> None:
    for tokenizer in (TOKENIZERS[kind], text_encoder(TOKENIZERS[kind])):
        marks = SpecialMarks(tokenizer)
        assert marks.seen("a</s><s> <|endoftext|></s>") == "a</s><s> <|endoftext|></s>"
        assert marks.notes() == [
            "special tokens spelled out in documents are read as text: 2 </s>, 1 <s>,"
            " 1 <|endoftext|>"
        ]
    assert SpecialMarks(TOKENIZERS[kind]).notes() == []
