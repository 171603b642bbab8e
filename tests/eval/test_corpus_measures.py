"""Diversity and repetition are worked by hand, counted naively, and measured on real text."""

from __future__ import annotations

import json
import lzma
import math
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.manifest import read_manifest
from cdgen.corpus.rows import count_rows
from cdgen.errors import StorageError, UsageError
from cdgen.eval import corpus_measures
from cdgen.eval.corpus_measures import (
    NOVELTY_SIZES,
    Lengths,
    continuations_of,
    documents_of,
    measure,
)
from cdgen.generation.config import GenerateConfig
from cdgen.generation.run import generate

ASSETS = Path(__file__).resolve().parents[2] / "assets"
PROMPTS, SEQUENCES, NEW_TOKENS = 3, 2, 12


# ---- worked by hand ----------------------------------------------------------------------------


def test_a_small_corpus() -> None:
    found = measure(["a b a b a b", "a b", "", "c"])
    assert (found.documents, found.words, found.characters) == (4, 9, 15)
    assert found.document_words == Lengths(mean=9 / 4, median=1.5, p95=pytest.approx(5.4))
    # Bigrams: ab, ba, ab, ba, ab | ab. Trigrams: aba, bab, aba, bab. 4-grams: abab, baba, abab.
    assert found.distinct == {1: 3 / 9, 2: 2 / 6, 3: 2 / 4, 4: 2 / 3}
    assert found.distinct_words == 9
    assert found.diversity == pytest.approx(1 / 9)
    assert found.repetition == pytest.approx(1 / 3)
    assert found.duplicates == 0
    assert found.novelty is None and found.reference_words is None


def test_repetition_is_inside_a_document_and_the_mean_over_documents() -> None:
    assert measure(["a b c d", "a b c d"]).repetition == 0
    assert measure(["a a a a a a", "a b c d", "too short"]).repetition == pytest.approx(2 / 3 / 2)


def test_duplicates_are_the_same_to_the_byte() -> None:
    assert measure(["x y", "z", "x y", "x y"]).duplicates == 1 / 2
    assert measure(["x y", "x y ", "X y", "x  y"]).duplicates == 0
    assert measure(["", ""]).duplicates == 1 / 2


def test_novelty_counts_every_occurrence() -> None:
    found = measure(["a b a b x"], reference=["a b c", "b a"])
    assert found.reference_words == 5
    assert found.novelty is not None
    assert found.novelty[1] == 1 / 5  # x
    assert found.novelty[2] == 1 / 4  # bx; ab and ba are known
    assert found.novelty[3] == 1  # aba, bab, abx: the reference has only abc
    assert found.novelty[5] == 1
    assert found.novelty[7] is None


def test_no_ngram_spans_two_documents() -> None:
    apart, together = ["a b", "c d"], ["a b c d"]
    assert measure(apart).distinct == {1: 1, 2: 1, 3: None, 4: None}
    assert measure(apart).diversity is None
    assert measure(apart, together).novelty == {1: 0, 2: 0, 3: None, 5: None, 7: None}
    assert measure(together, apart).novelty == {1: 0, 2: 1 / 3, 3: 1, 5: None, 7: None}


def test_distinct_looks_at_the_first_words_alone() -> None:
    documents = ["a b a", "b c d e", "a a a a a a"]
    head = measure(documents, words=5)
    assert head.distinct_words == 5
    assert head.distinct == measure(["a b a", "b c"]).distinct
    assert head.words == 13
    assert measure(documents, words=13) == measure(documents)
    assert measure(documents).distinct_words == 13  # fewer than asked for: the measure says so


def test_words_are_what_whitespace_separates() -> None:
    assert measure(["The the  the.\n\nthe\tthe"]).distinct[1] == 3 / 5
    assert measure(["naïve мама cat, 🙂"]).words == 4


def test_compression_is_that_of_all_texts_together() -> None:
    documents = ["the cat sat on the mat. " * 40, "été", "the cat sat on the mat. " * 40]
    data = "".join(documents).encode()
    assert measure(documents).compression == len(data) / len(zlib.compress(data))
    assert measure(documents).compression > 10


def test_documents_without_words() -> None:
    found = measure(["", " \n"], reference=["a"])
    assert (found.documents, found.words, found.characters) == (2, 0, 2)
    assert found.document_words == Lengths(0, 0, 0)
    assert set(found.distinct.values()) == {None}
    assert found.diversity is None and found.repetition is None
    assert found.novelty == dict.fromkeys(NOVELTY_SIZES)


def test_words_of_a_script_without_spaces() -> None:
    found = measure(["我们去了北京。", "我们去了上海。"])
    assert (found.words, found.document_words.mean) == (12, 6.0)
    assert found.distinct[1] == 8 / 12


def test_measures_become_json() -> None:
    record = json.loads(json.dumps(asdict(measure(["a b", "c"], ["a"]))))
    assert record["document_words"] == {"mean": 1.5, "median": 1.5, "p95": pytest.approx(1.95)}
    assert record["novelty"]["1"] == 2 / 3


# ---- counted naively ---------------------------------------------------------------------------


def ngrams(documents: Sequence[Sequence[str]], n: int) -> list[tuple[str, ...]]:
    return [tuple(d[i : i + n]) for d in documents for i in range(len(d) - n + 1)]


def share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def first_words(documents: Sequence[Sequence[str]], count: int) -> list[Sequence[str]]:
    head = []
    for document in documents:
        head.append(document[:count])
        count -= len(head[-1])
    return head


WORDS = st.sampled_from(["a", "b", "c", "A", "a.", "é", "long-word"])
DOCUMENTS = st.lists(st.lists(WORDS, max_size=14), min_size=1, max_size=12)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(DOCUMENTS, DOCUMENTS, st.integers(1, 60), st.sampled_from([1, 9, 40, 1 << 20]))
def test_as_a_naive_count_finds(
    documents: list[list[str]], reference: list[list[str]], words: int, batch: int
) -> None:
    """The size of the batches does not matter, and hashes do not collide among so few n-grams."""
    texts = [" ".join(document) for document in documents]
    known = ["the", *(" ".join(document) for document in reference)]
    with mock.patch.object(corpus_measures, "_BATCH_CHARACTERS", batch):
        found = measure(iter(texts), iter(known), words)
    head = first_words(documents, words)
    sizes = {n: ngrams(head, n) for n in (1, 2, 3, 4)}
    assert found.distinct == {n: share(len(set(g)), len(g)) for n, g in sizes.items()}
    assert found.distinct_words == min(words, sum(map(len, documents)))
    products = [len(set(sizes[n])) / len(sizes[n]) for n in (2, 3, 4) if sizes[n]]
    assert found.diversity == (math.prod(products) if sizes[4] else None)
    for n in NOVELTY_SIZES:
        seen = set(ngrams(reference, n))
        novel = [ngram for ngram in ngrams(documents, n) if ngram not in seen]
        assert found.novelty is not None
        assert found.novelty[n] == share(len(novel), len(ngrams(documents, n)))
    own = [ngrams([document], 4) for document in documents]
    repeated = [1 - len(set(grams)) / len(grams) for grams in own if grams]
    assert found.repetition == (pytest.approx(sum(repeated) / len(repeated)) if repeated else None)
    assert found.duplicates == pytest.approx(1 - len(set(texts)) / len(texts))
    assert found.words == sum(map(len, documents))
    assert found.characters == sum(map(len, texts))


def test_many_ngrams_of_words_numbered_in_order() -> None:
    """A weak hash would let neighbouring numbers collide."""
    documents = [
        " ".join(f"{i} {i + 1 + step}" for i in range(step, 100_000 - step, 7)) for step in range(7)
    ]
    words = [document.split() for document in documents]
    found = measure(documents, words=10**9)
    assert found.words > 190_000
    for n in (1, 2, 3, 4):
        assert found.distinct[n] == len(set(ngrams(words, n))) / len(ngrams(words, n))


def test_memory_does_not_grow_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_measures, "_BATCH_CHARACTERS", 1 << 16)

    def peak(count: int) -> int:
        texts = (f"the cat {n % 100} sat on the mat " * 20 for n in range(count))
        tracemalloc.start()
        assert measure(texts, words=1000).documents == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # warms up imports and caches
    small, large = peak(1_000), peak(6_000)
    assert large < small + 5_000 * 100  # a text has 600 characters


# ---- what is read ------------------------------------------------------------------------------


def config(folder: Path, shard: str, format: str = "parquet") -> GenerateConfig:
    prompts = folder / "prompts.txt"
    lines = (ASSETS / "demo-prompts.txt").read_text().splitlines()[:PROMPTS]
    prompts.write_text("\n".join(lines))
    pair = ASSETS / "demo-pair"
    return GenerateConfig(
        good=pair / "good",
        bad=str(pair / "bad"),
        prompts=str(prompts),
        out=folder / "out",
        prompt_tokens=6,
        num_sequences=SEQUENCES,
        max_new_tokens=NEW_TOKENS,
        range_size=2,
        shard=shard,
        format=format,  # type: ignore[arg-type]  # pydantic checks it
    )


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_cdgen_corpus_unfinished_and_finished(tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    generate(config(tmp_path, "1/2", format))
    path = CorpusFolder(out).range_path(1)
    if format == "parquet":
        rows = pq.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(documents_of(out)) == [row["text"] for row in rows]
    assert len(rows) == 2
    assert continuations_of(out)[1] == count_rows(rows).finish_reasons
    generate(config(tmp_path, "0/1", format))
    totals = read_manifest(CorpusFolder(out)).totals
    found = measure(documents_of(out))
    assert (found.documents, found.words) == (totals.rows, totals.words)
    assert found.documents == PROMPTS * SEQUENCES
    new_tokens, reasons = continuations_of(out)
    assert new_tokens.mean == totals.new_tokens / totals.rows
    assert new_tokens.p95 <= NEW_TOKENS
    assert reasons == totals.finish_reasons
    assert sum(reasons.values()) == PROMPTS * SEQUENCES


def test_a_corpus_without_a_range(tmp_path: Path) -> None:
    generate(config(tmp_path, "1/2"))
    for path in (tmp_path / "out/.cdgen/ranges").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="no range is committed yet"):
        documents_of(tmp_path / "out")
    with pytest.raises(UsageError, match="no range is committed yet"):
        continuations_of(tmp_path / "out")


def test_a_damaged_corpus_is_named(tmp_path: Path) -> None:
    generate(config(tmp_path, "0/1"))
    (path,) = (tmp_path / "out/data").iterdir()
    path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    with pytest.raises(StorageError, match=path.name):
        measure(documents_of(tmp_path / "out"))


def test_text_files_and_a_folder_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one line\n\nanother\n")
    (tmp_path / "b.jsonl").write_text('{"text": "two\\nlines"}\n')
    (tmp_path / "c.txt.xz").write_bytes(lzma.compress(b"packed"))
    pq.write_table(pa.table({"text": ["in a table", ""]}), tmp_path / "d.parquet")
    texts = {
        "a.txt": ["one line", "another"],
        "b.jsonl": ["two\nlines"],
        "c.txt.xz": ["packed"],
        "d.parquet": ["in a table"],
    }
    for name, expected in texts.items():
        assert list(documents_of(tmp_path / name)) == expected
    assert list(documents_of(tmp_path)) == [text for part in texts.values() for text in part]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no document to measure"):
        measure([])
    with pytest.raises(UsageError, match="reference for novelty holds no word"):
        measure(["a"], reference=["", " "])
    with pytest.raises(UsageError, match="expected 1 or more, got 0"):
        measure(["a"], words=0)
    with pytest.raises(UsageError, match="holds no cdgen corpus"):
        continuations_of(tmp_path)
    with pytest.raises(UsageError, match="no usable file in this folder"):
        documents_of(tmp_path)


def test_a_missing_source_is_not_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_dataset(*arguments: Any, **options: Any) -> None:
        pytest.fail("asked the Hub")

    import datasets

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="stories: no such file or folder"):
        documents_of(Path("stories"))


# ---- real text ---------------------------------------------------------------------------------


def stories(data_folder: Path, start: int, count: int) -> Iterator[str]:
    lines = documents_of(data_folder / "text/tinystories_sample_cased.txt.xz")
    return islice(lines, start, start + count)


def test_real_text(data_folder: Path) -> None:
    own = measure(stories(data_folder, 0, 2000), stories(data_folder, 0, 2000), words=20_000)
    assert own.novelty == dict.fromkeys(NOVELTY_SIZES, 0)
    other = measure(stories(data_folder, 2000, 2000), stories(data_folder, 0, 2000), words=20_000)
    assert other.novelty is not None
    shares = [share or 0.0 for share in other.novelty.values()]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.1 and shares[-1] > 0.8
    assert other.distinct_words == 20_000
    twice = (f"{text} {text}" for text in stories(data_folder, 0, 2000))
    repeated = measure(twice, words=20_000)
    assert repeated.repetition is not None and own.repetition is not None
    assert repeated.repetition > 0.45 > own.repetition
    assert repeated.diversity is not None and own.diversity is not None
    assert repeated.diversity < own.diversity
    assert repeated.compression > own.compression
