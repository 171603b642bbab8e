"""Small tokenizers of the three common kinds, for tests of prompts."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

TEXT = [
    "the cat sat on the mat and the dog sat on the cat in 1984",
    "a  bird, two birds: it's the cat's bird, isn't it? the end.",
    "éléphant naïve мама мыла раму 猫が座った the cat",
]


def byte_level() -> Tokenizer:
    """Return a tokenizer of GPT-2's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return train(tokenizer)


def smollm_like() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()]
    )
    return train(tokenizer)


def llama_like() -> Tokenizer:
    """Return a tokenizer of SentencePiece's kind: trained within words, used without a
    pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = train(tokenizer, [f"<0x{byte:02X}>" for byte in range(256)])
    spec = json.loads(tokenizer.to_str())
    tokenizer = Tokenizer.from_str(json.dumps({**spec, "pre_tokenizer": None}))
    tokenizer.encode_special_tokens = True
    return tokenizer


def train(tokenizer: Tokenizer, extra: list[str] | None = None) -> Tokenizer:
    special = ["<unk>", "<s>", "</s>", *(extra or [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if extra is None else ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + len(special) + 120,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 20, trainer)
    tokenizer.encode_special_tokens = True  # for `in_full`: no copy has it
    return tokenizer


TOKENIZER = byte_level()
KINDS = {"byte-level": TOKENIZER, "digits": smollm_like(), "llama": llama_like()}


def in_full(tokenizer: Tokenizer, text: str, bos: int | None, count: int) -> list[int]:
    """Return the prompt by definition: tokenize the whole document, then cut."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return ([] if bos is None else [bos]) + ids[: count - (bos is not None)]
