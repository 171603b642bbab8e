"""Prompts: every kind of source, every kind of bad source, and the table on disk."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from cdgen.checkpoints.pair import tokenizer_sha256
from cdgen.corpus import documents, prompts
from cdgen.corpus.documents import hash_source, read_documents
from cdgen.corpus.prompts import (
    PromptSource,
    PromptTable,
    open_table,
    prepare_prompts,
    splits_at_spaces,
    tokenize_heads,
)
from cdgen.errors import PlanMismatch, StorageError, UsageError

TEXT = [
    "the cat sat on the mat and the dog sat on the cat in 1984",
    "a  bird, two birds: it's the cat's bird, isn't it? the end.",
    "éléphant naïve мама мыла раму 猫が座った the cat",
]


def prepare(
    source: str, tokenizer: Tokenizer, bos: int | None, prompt_tokens: int, folder: Path
) -> PromptTable:
    origin = PromptSource(source, tokenizer, tokenizer_sha256(tokenizer), bos, prompt_tokens)
    return prepare_prompts(origin, folder)


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
    return Tokenizer.from_str(json.dumps({**spec, "pre_tokenizer": None}))


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
    return tokenizer


TOKENIZER = byte_level()


def in_full(tokenizer: Tokenizer, text: str, bos: int | None, count: int) -> list[int]:
    """Return the prompt by definition: tokenize the whole document, then cut."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return ([] if bos is None else [bos]) + ids[: count - (bos is not None)]


# ---- sources -----------------------------------------------------------------------------------

DOCUMENTS = ["first one", "zweites Stück", "третий", "  indented", "last"]
WRITERS: dict[str, Callable[[Path], object]] = {
    "p.txt": lambda path: path.write_text("\n".join([*DOCUMENTS[:2], "", " \t", *DOCUMENTS[2:]])),
    "windows.txt": lambda path: path.write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join(DOCUMENTS).encode() + b"\r\n"
    ),
    "p.txt.gz": lambda path: path.write_bytes(gzip.compress("\n".join(DOCUMENTS).encode())),
    "p.txt.xz": lambda path: path.write_bytes(lzma.compress("\n".join(DOCUMENTS).encode())),
    "p.jsonl": lambda path: path.write_text(as_json(DOCUMENTS)),
    "p.jsonl.gz": lambda path: path.write_bytes(gzip.compress(as_json(DOCUMENTS).encode())),
    "p.jsonl.xz": lambda path: path.write_bytes(lzma.compress(as_json(DOCUMENTS).encode())),
    "p.parquet": lambda path: pq.write_table(
        pa.table({"id": range(5), "text": DOCUMENTS}), path, row_group_size=2
    ),
    "large.parquet": lambda path: pq.write_table(
        pa.table({"text": pa.array(DOCUMENTS, pa.large_string())}), path
    ),
}


def as_json(texts: list[str]) -> str:
    return "\n\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)) + "\n"


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert list(read_documents(str(tmp_path / name))) == DOCUMENTS


def test_a_folder_is_its_files_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(as_json(["three", "four"]))
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "notes.md").write_text("not a prompt")
    (tmp_path / "sub.txt").mkdir()
    assert list(read_documents(str(tmp_path))) == ["one", "two", "three", "four"]


def test_a_source_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    assert hash_source(str(path)) == hashlib.sha256(b"one\ntwo\n").hexdigest()
    folder_hash = hash_source(str(tmp_path))
    path.rename(tmp_path / "z.txt")
    assert hash_source(str(tmp_path)) == folder_hash
    (tmp_path / "z.txt").write_text("one\ntwo")
    assert hash_source(str(tmp_path)) != folder_hash


def test_a_datasets_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"text": DOCUMENTS, "n": [1, 2, 3, 4, 5]})
    calls = []

    def load_dataset(name: str, split: str) -> datasets.Dataset:
        calls.append((name, split))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    assert list(read_documents("some/corpus")) == DOCUMENTS
    assert calls == [("some/corpus", "train")]
    digest = hash_source("some/corpus")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "corpus").mkdir()
    (tmp_path / "some" / "corpus" / "a.txt").write_text("a local path wins")
    assert list(read_documents("some/corpus")) == ["a local path wins"]
    assert hash_source("some/corpus") != digest
    table = table.select([0, 2, 1, 3, 4])
    assert hash_source("another") != digest
    table = table.remove_columns("text")
    with pytest.raises(UsageError, match=r"no column `text`, only \['n'\]"):
        list(read_documents("another"))


def test_a_dataset_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, split: str) -> None:
        raise ConnectionError("Couldn't reach the Hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UsageError) as caught:
        list(read_documents("no/such"))
    assert "no such file or folder here" in str(caught.value)
    assert str(caught.value).endswith("Couldn't reach the Hub")


# ---- bad sources -------------------------------------------------------------------------------

BAD_FILES = {
    "missing.txt": (None, "no such file or folder"),
    "p.md": (b"text", r"unknown kind of file; expected \.txt"),
    "p.jsonl.zst": (b"text", "unknown kind of file"),
    "empty.txt": (b"", "no prompt in it"),
    "blank.txt": (b"\n \n\t\r\n", "no prompt in it"),
    "blank.jsonl": (b'{"text": " "}\n', "no prompt in it"),
    "latin.txt": ("ok\nfine\ncafé noir\n".encode("latin-1"), r"line 3: not UTF-8 at byte 11 of"),
    "broken.jsonl": (b'{"text": "a"}\n\n{"text": "b"\n', "line 3: not JSON"),
    "deep.jsonl": (b"[" * 200_000, "line 1: not JSON"),
    "digits.jsonl": (b'{"text": ' + b"1" * 5000 + b"}", "line 1: not JSON"),
    "list.jsonl": (b'["text"]', 'line 1: expected an object with "text", got'),
    "other.jsonl": (b'{"text": "a"}\n{"txt": "a"}', 'line 2: expected an object with "text", got'),
    "number.jsonl": (b'{"text": 3}', 'line 1: expected "text" to be a string, got int'),
    "null.jsonl": (b'{"text": null}', "got NoneType"),
    "half.jsonl": (b'{"text": "\\ud83d"}', "line 1: .* half of a surrogate pair"),
    "not.txt.gz": (b"plain text", "cannot read .*Not a gzipped file"),
    "cut.txt.gz": (gzip.compress(b"text\n" * 999)[:-9], "cannot read"),
    "not.jsonl.xz": (b"plain text", "cannot read .*not supported"),
    "not.parquet": (b"PAR1 and then nothing of the kind", "cannot read .*not.parquet"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named_and_leave_nothing(tmp_path: Path, name: str) -> None:
    content, said = BAD_FILES[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    folder = tmp_path / "prompts"
    folder.mkdir()
    with pytest.raises(UsageError, match=said) as caught:
        prepare(str(path), TOKENIZER, None, 4, folder)
    assert name in str(caught.value)
    assert str(caught.value).count("\n") <= 1
    assert list(folder.iterdir()) == []


def bad_parquet(path: Path, array: pa.Array, column: str = "text") -> str:
    pq.write_table(pa.table({column: array}), path)
    with pytest.raises(UsageError) as caught:
        list(read_documents(str(path)))
    return str(caught.value)


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    assert "no column `text`, only ['body']" in bad_parquet(path, pa.array(["a"]), "body")
    assert "p.parquet, row 2: expected" in bad_parquet(path, pa.array(["a", None]))
    assert "row 1: expected" in bad_parquet(path, pa.array([7]))
    not_utf8 = pa.array([b"ok", b"caf\xe9"]).view(pa.string())
    assert "after row 1" in bad_parquet(path, not_utf8) or "row 2" in bad_parquet(path, not_utf8)


def test_a_folder_without_prompts(tmp_path: Path) -> None:
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(UsageError, match="no usable file in this folder"):
        list(read_documents(str(tmp_path)))


@pytest.mark.parametrize("source", ["./prompts", "/no/such/prompts", "~/prompts", "a/b/c"])
def test_what_cannot_be_a_dataset_is_a_missing_file(source: str) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        list(read_documents(source))


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(UsageError, match="got an empty name"):
        list(read_documents(""))


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "p.txt"
    path.write_bytes(b"short\n" + b"x" * (1 << 20))
    assert [len(text) for text in read_documents(str(path))] == [5, 1 << 20]
    path.write_bytes(b"short\n" + b"x" * (1 << 20) + b"x\nnext\n")
    with pytest.raises(UsageError, match=r"p\.txt, line 2: longer than 1 MB"):
        list(read_documents(str(path)))


def test_a_ten_megabyte_line_costs_its_first_page(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("the cat sat on the mat " * 450_000)
    table = prepare(str(path), TOKENIZER, None, 12, tmp_path)
    assert [table[0]] == [in_full(TOKENIZER, "the cat sat on the mat " * 9, None, 12)]


# ---- tokens ------------------------------------------------------------------------------------

KINDS = {"byte-level": byte_level(), "digits": smollm_like(), "llama": llama_like()}
# Pieces that tempt a tokenizer to look across a space: spaces in a row, marks that stand for
# spaces, contractions, special tokens, letters that no merge knows, combining accents.
PIECES = (
    " ",
    "  ",
    "the",
    "cat",
    "sat",
    "'s",
    "'",
    "1984",
    "7",
    ".",
    "é",
    "e\u0301",
    "\u0301",
    "▁",
    "Ġ",
    "猫",
    "мама",
    "\t",
    "\u00a0",
    "<s>",
    "</s>",
    "s>",
    "<",
    "\x1c",
    "🙂",
)
texts = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=texts, count=st.integers(1, 12), head=st.integers(0, 12))
def test_heads_are_the_heads_of_the_whole(kind: str, text: str, count: int, head: int) -> None:
    tokenizer = KINDS[kind]
    assert splits_at_spaces(tokenizer)
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    begun = tokenizer.encode(prompts._head(text, head), add_special_tokens=False).ids
    assert whole[: len(begun)] == begun
    ids = in_full(tokenizer, text, 1, count)
    assert list(tokenize_heads([text], tokenizer, 1, count)) == [ids]


def test_long_documents_are_cut_and_stay_the_same() -> None:
    documents = [" ".join(TEXT * n) for n in (1, 100, 200)] + ["x" * 9000, "a b" * 5000]
    for tokenizer in KINDS.values():
        for count in (3, 700):
            expected = [in_full(tokenizer, text, None, count) for text in documents]
            assert list(tokenize_heads(documents, tokenizer, None, count)) == expected


def without_proof(change: Callable[[Tokenizer], object], kind: str = "byte-level") -> bool:
    tokenizer = Tokenizer.from_str(KINDS[kind].to_str())
    change(tokenizer)
    return not splits_at_spaces(tokenizer)


def test_no_shortcut_without_a_proof() -> None:
    def set_part(part: str, value: object) -> Callable[[Tokenizer], object]:
        return lambda tokenizer: setattr(tokenizer, part, value)

    no_regex = pre_tokenizers.ByteLevel(use_regex=False)
    split = pre_tokenizers.Split("cat ", "isolated")
    assert without_proof(set_part("pre_tokenizer", no_regex))
    assert without_proof(set_part("pre_tokenizer", pre_tokenizers.Sequence([split, no_regex])))
    assert without_proof(set_part("pre_tokenizer", split), "llama")
    assert without_proof(set_part("normalizer", normalizers.Replace("cat ", "dog")))
    assert without_proof(set_part("normalizer", normalizers.NFC()), "llama")
    assert without_proof(lambda t: t.add_tokens([AddedToken("two words")]))
    assert without_proof(lambda t: t.add_tokens([AddedToken("<x>", lstrip=True)]))
    merged = json.loads(KINDS["llama"].to_str())
    merged["model"]["vocab"]["t▁the"] = len(merged["model"]["vocab"])
    assert not splits_at_spaces(Tokenizer.from_str(json.dumps(merged)))


def test_the_callers_tokenizer_is_left_alone_and_its_truncation_ignored() -> None:
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    before = tokenizer.to_str()
    (ids,) = tokenize_heads([TEXT[0]], tokenizer, None, 9)
    assert ids == in_full(TOKENIZER, TEXT[0], None, 9)
    assert tokenizer.to_str() == before


# ---- the table ---------------------------------------------------------------------------------


def source_file(folder: Path, texts: list[str]) -> str:
    path = folder / "source.txt"
    path.write_text("\n".join(texts) + "\n")
    return str(path)


@pytest.mark.parametrize("bos", [None, 1])
def test_the_table_holds_every_prompt(tmp_path: Path, bos: int | None) -> None:
    documents = [*TEXT, "the", *(f"cat {n}" for n in range(700))]
    source = source_file(tmp_path, documents)
    table = prepare(source, TOKENIZER, bos, 6, tmp_path)
    expected = [in_full(TOKENIZER, text, bos, 6) for text in documents]
    assert [table[i] for i in range(len(table))] == expected
    assert [open_table(tmp_path)[i] for i in range(len(documents))] == expected
    assert table.plan.count == len(documents)
    assert table.plan.source_sha256 == hash_source(source)
    size = (tmp_path / "tokens.bin").stat().st_size
    assert size == len(documents) * 6 * 4


def test_bos_counts_and_may_be_all(tmp_path: Path) -> None:
    table = prepare(source_file(tmp_path, TEXT), TOKENIZER, 1, 1, tmp_path)
    assert [table[i] for i in range(len(table))] == [[1]] * 3
    with pytest.raises(UsageError, match="expected 1 or more, got 0"):
        prepare(source_file(tmp_path, TEXT), TOKENIZER, 1, 0, tmp_path)


def test_a_table_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_file(tmp_path, TEXT)
    first = prepare(source, TOKENIZER, 1, 6, tmp_path)
    monkeypatch.setattr(prompts, "tokenize_heads", None)
    again = prepare(source, TOKENIZER, 1, 6, tmp_path)
    assert again.plan == first.plan
    assert again[2] == first[2]


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    source = source_file(tmp_path, TEXT)
    prepare(source, TOKENIZER, 1, 6, tmp_path)
    with pytest.raises(PlanMismatch, match="prompt_tokens: was 6, now 7"):
        prepare(source, TOKENIZER, 1, 7, tmp_path)
    with pytest.raises(PlanMismatch, match="bos_token_id: was 1, now None"):
        prepare(source, TOKENIZER, None, 6, tmp_path)
    with pytest.raises(PlanMismatch, match="tokenizer_sha256"):
        prepare(source, KINDS["llama"], 1, 6, tmp_path)
    with pytest.raises(PlanMismatch, match="source_sha256"):
        prepare(source_file(tmp_path, TEXT[:2]), TOKENIZER, 1, 6, tmp_path)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    source = source_file(tmp_path, TEXT)
    prepare(source, TOKENIZER, 1, 6, tmp_path)
    path = tmp_path / "tokens.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StorageError, match=r"tokens\.bin is damaged"):
        prepare(source, TOKENIZER, 1, 6, tmp_path)


def test_memory_does_not_grow_with_the_prompts(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        source = source_file(folder, [f"the cat {n} sat on the mat" for n in range(count)])
        tracemalloc.start()
        table = prepare(source, TOKENIZER, 1, 6, folder)
        assert len(table) == count
        assert table[count - 1][0] == 1
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # imports and caches
    small, large = peak(3_000), peak(30_000)
    assert large < small + 200_000
