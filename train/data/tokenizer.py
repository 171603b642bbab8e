"""Tokenizers that encode any text without an unknown token: byte-level BPE, BPE in the style of
SentencePiece (Ulm et al. 2025), or an existing one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from cdgen.checkpoints.checkpoint import read_json, reading
from cdgen.checkpoints.text_prefix import prefix_of
from cdgen.checkpoints.tokenizer_file import read_tokenizer
from cdgen.corpus.first_tokens import BYTE_LEVEL_PIECES
from cdgen.errors import ModelError, UsageError
from cdgen.storage import record_checksum, sha256_of

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2  # ids in `train_tokenizer`; see `special_ids` for other tokenizers
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SPACE = "\u2581"  # SentencePiece's mark for a space
_MAX_CHARACTERS = 1000  # rarer characters are spelled in bytes: their entries would be unused


@dataclass(frozen=True)
class SpecialNames:
    """The names of a tokenizer's special tokens. An existing tokenizer may have no padding token
    and no token that begins a text."""

    pad: str | None = PAD
    bos: str | None = BOS
    eos: str = EOS


MADE = SpecialNames()  # names in a tokenizer that a recipe trains


@dataclass(frozen=True)
class SpecialIds:
    pad: int | None
    bos: int | None
    eos: int


def special_ids(tokenizer: Tokenizer, names: SpecialNames = MADE) -> SpecialIds:
    """Return the ids of special tokens. Raises UsageError if the tokenizer lacks one of `names`."""
    found = {
        name: tokenizer.token_to_id(name) for name in (names.pad, names.bos, names.eos) if name
    }
    if missing := [name for name, token in found.items() if token is None]:
        raise UsageError(
            f"the tokenizer has no {' and no '.join(missing)}, which its tokenizer_config.json"
            " names: save the tokenizer again"
        )
    ids = {name: token for name, token in found.items() if token is not None}
    pad, bos = (ids[name] if name else None for name in (names.pad, names.bos))
    return SpecialIds(pad, bos, ids[names.eos])


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE: special tokens have ids 0 to 2, then come the 256 bytes, then the
    merges by frequency.

    The vocabulary stays smaller than `vocab_size` if the texts have too few pairs to merge.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BYTE_LEVEL_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_bos(tokenizer)


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a BPE in the style of SentencePiece: <unk> 0, <s> 1, </s> 2, <pad> 3, then the 256
    bytes, characters and merges.

    Text comes back as NFC. (NFKC, as in SentencePiece's own default, would divide a vowel sign of
    Thai into two that look otherwise.) A character without an entry is spelled in bytes, so <unk>
    never occurs.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True))
    # Add a space before the first word, so that it gets the same token as elsewhere.
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Prepend(_SPACE)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Split("\n", "isolated")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = [UNK, BOS, EOS, PAD]
    free = vocab_size - len(special) - len(_BYTES)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special, *_BYTES],
        limit_alphabet=min(max(free // 2, 1), _MAX_CHARACTERS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_bos(_bytes_unspecial(tokenizer))


def _bytes_unspecial(tokenizer: Tokenizer) -> Tokenizer:
    """Make the byte tokens ordinary ones. The trainer gives them ids as special tokens, and then a
    text that spells out "<0x41>" would be read as the byte."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in _BYTES]
    return Tokenizer.from_str(json.dumps(state))


def _with_bos(tokenizer: Tokenizer) -> Tokenizer:
    _put_first(BOS, tokenizer)
    tokenizer.encode_special_tokens = True  # a text that spells out "</s>" must not end there
    return tokenizer


def _put_first(bos: str, tokenizer: Tokenizer) -> None:
    """Let the template of the tokenizer put `bos` before every text."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )


def tokenizer_from_json(text: str) -> Tokenizer:
    """Return a tokenizer from its `to_str`, with the settings that `to_str` leaves out."""
    return _as_text(Tokenizer.from_str(text))


def _as_text(tokenizer: Tokenizer) -> Tokenizer:
    """Let a tokenizer take everything in a text for text, whole."""
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_tokenizer(folder: Path, vocab_size: int) -> tuple[Tokenizer, SpecialNames]:
    """Load an existing tokenizer. Raises UsageError if it cannot be read, has too many tokens or no
    end of text."""
    file = tokenizer_file(folder)
    try:
        tokenizer = _as_text(read_tokenizer(file))
    except ModelError as error:
        raise UsageError(f"tokenizer: cannot read {file}: {error}") from error
    names = special_names(folder)
    special_ids(tokenizer, names)
    if (size := tokenizer.get_vocab_size()) > vocab_size:
        raise UsageError(f"tokenizer: {folder} has {size} tokens; vocab_size: at least that many")
    return tokenizer, names


def special_names(folder: Path) -> SpecialNames:
    """Return the names of special tokens in tokenizer_config.json, given as text or as a record
    with `content`."""
    file = folder / "tokenizer_config.json"
    with reading(folder):
        config = read_json(file) if file.exists() else {}
    values = (config.get(f"{name}_token") for name in ("pad", "bos", "eos"))
    pad, bos, eos = (v.get("content") if isinstance(v, dict) else v for v in values)
    if not isinstance(eos, str):
        raise UsageError(f"tokenizer: {file} names no eos_token: documents could not end")
    return SpecialNames(pad, bos, eos)


def tokenizer_identity(folder: Path) -> str:
    """Return a hash of everything that a run takes from an existing tokenizer."""
    file, names = tokenizer_file(folder), special_names(folder)
    return record_checksum({"tokenizer.json": sha256_of(file), "special": asdict(names)})


def tokenizer_file(folder: Path) -> Path:
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(
            f"tokenizer: expected byte-level, sentencepiece or a folder with tokenizer.json, got"
            f" {folder}"
        )
    return folder / "tokenizer.json"


def for_transformers(
    tokenizer: Tokenizer, max_length: int, names: SpecialNames = MADE
) -> PreTrainedTokenizerFast:
    """Return the tokenizer in the form that `save_pretrained` writes and AutoTokenizer loads.

    It puts BOS before a text, as training does, whatever an existing tokenizer did before.
    """
    tokenizer = tokenizer_from_json(tokenizer.to_str())  # a copy, which may be changed
    if names.bos and not prefix_of(tokenizer):
        _put_first(names.bos, tokenizer)
    unknown = {} if tokenizer.token_to_id(UNK) is None else {"unk_token": UNK}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=names.pad,
        bos_token=names.bos,
        eos_token=names.eos,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        **unknown,
    )
