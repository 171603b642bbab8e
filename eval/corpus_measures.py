"""Diversity, repetition and novelty of a corpus, measured on its text alone, without a model.

Words are those of `cdgen.words`, with case and punctuation. No n-gram spans two documents.
N-grams are compared by 64-bit hashes: among a million distinct ones, two collide with probability
3e-8; a novel n-gram passes for known with probability n / 2**64 if the reference has n distinct
ones.

Documents stream. Memory holds a batch of a million characters with its n-grams, under 100 MB, and
in bytes: 70 per document, 120 per distinct word, 100 per word that distinct-n looks at, and 40 per
word of a reference for its n-grams of five sizes (64 while they are sorted).
"""

from __future__ import annotations

import hashlib
import math
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from cdgen.corpus.documents import DocumentSource, open_source
from cdgen.corpus.folder import CorpusFolder
from cdgen.corpus.reader import rows_so_far
from cdgen.corpus.rows import FINISH_REASONS
from cdgen.errors import UsageError
from cdgen.words import split_words

NOVELTY_SIZES = (1, 2, 3, 5, 7)
_BATCH_CHARACTERS = 1 << 20
_Batch = tuple[np.ndarray, np.ndarray]  # words in each document, int64; all words, uint64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Lengths:
    mean: float
    median: float
    p95: float  # interpolated if it falls between two lengths


@dataclass(frozen=True)
class CorpusMeasures:
    """The measures of a corpus. A share of n-grams is None if there is no n-gram of that size."""

    documents: int
    words: int
    characters: int
    document_words: Lengths
    # Distinct n-grams / n-grams (Li et al. 2016) of the first `distinct_words` words. It falls as
    # text gets longer: compare only values measured on the same number of words.
    distinct_words: int
    distinct: dict[int, float | None]  # n = 1 to 4
    diversity: float | None  # distinct-2 x distinct-3 x distinct-4 (Su et al. 2022)
    # The share of a document's 4-grams that occurred earlier in it (seq-rep-4, Welleck et al.
    # 2020), averaged over the documents of four words or more.
    repetition: float | None
    duplicates: float  # share of the documents that repeat an earlier one byte for byte
    compression: float  # UTF-8 bytes / bytes after zlib, whose window is 32 KB
    # The share of n-grams, counted as often as they occur, that the reference lacks (McCoy et al.
    # 2023; n-novelty, Merrill et al. 2024). None without a reference.
    reference_words: int | None
    novelty: dict[int, float | None] | None  # n in NOVELTY_SIZES


def measure(
    documents: Iterable[str], reference: Iterable[str] | None = None, words: int = 100_000
) -> CorpusMeasures:
    """Measure the documents; novelty is counted against `reference`.

    distinct-n takes the first `words` words, 100,000 as in Ulm et al. 2025. Raises UsageError.
    """
    if words < 1:
        raise UsageError(f"words for distinct-n: expected 1 or more, got {words}")
    ids: defaultdict[str, int] = defaultdict(count().__next__)
    novelty = None if reference is None else _Novelty(reference, ids)
    texts = _Texts()
    parts, repetitions, head = [], [], np.empty(0, np.uint64)
    for batch_lengths, batch in _batches(texts.read(documents), ids):
        ngrams = _ngrams(batch_lengths, batch)
        parts.append(batch_lengths)
        repetitions.append(_repetitions(ngrams[4], batch_lengths))
        head = np.concatenate([head, batch[: words - len(head)]])
        if novelty:
            novelty.add(ngrams)
    if not parts:
        raise UsageError("there is no document to measure")
    lengths, repetition = np.concatenate(parts), np.concatenate(repetitions)
    distinct = _distinct(lengths, head)
    return CorpusMeasures(
        documents=len(lengths),
        words=int(lengths.sum()),
        characters=texts.characters,
        document_words=_lengths(lengths),
        distinct_words=len(head),
        distinct=distinct,
        diversity=math.prod(distinct[n] or 0.0 for n in (2, 3, 4)) or None,  # no share is 0
        repetition=float(repetition.mean()) if len(repetition) else None,
        duplicates=texts.duplicates(),
        compression=texts.compression(),
        reference_words=novelty.reference_words if novelty else None,
        novelty=novelty.shares() if novelty else None,
    )


def documents_of(source: Path, text_column: str = "text", say: bool = True) -> Iterator[str]:
    """Yield the texts of a cdgen corpus, finished or not, with their prompts; or of other text:
    what `cdgen.corpus.documents` reads, without blank documents, and `say` what that was.

    Raises UsageError, StorageError.
    """
    if CorpusFolder(source).has_plan:
        return (row["text"] for row in rows_so_far(source, ["text"]))
    if not source.exists():  # `open_source` would look for a dataset of that name on the Hub
        raise UsageError(f"{source}: no such file or folder")
    found = open_source(str(source), text_column)
    return _said(found) if say else found.texts()


def _said(source: DocumentSource) -> Iterator[str]:
    count = 0
    for text in source.texts():
        count += 1
        yield text
    source.say(f"{count:,} documents")


def continuations_of(out: Path) -> tuple[Lengths, dict[str, int]]:
    """Count the new tokens per sequence of the cdgen corpus in `out`, and its finish reasons."""
    new_tokens, reasons = array("q"), Counter[str]()
    for row in rows_so_far(out, ["new_tokens", "finish_reason"]):
        new_tokens.append(row["new_tokens"])
        reasons[row["finish_reason"]] += 1
    return _lengths(np.array(new_tokens)), {r: reasons[r] for r in FINISH_REASONS}


class _Texts:
    """Measures that take each text as a whole, made while the documents stream through."""

    def __init__(self) -> None:
        self.characters = self._bytes = self._compressed = 0
        self._digests = bytearray()
        self._compressor = zlib.compressobj()

    def read(self, documents: Iterable[str]) -> Iterator[str]:
        for text in documents:
            data = text.encode(errors="surrogatepass")  # JSON may hold half of a pair
            self.characters += len(text)
            self._digests += hashlib.blake2b(data, digest_size=16).digest()
            self._bytes += len(data)
            self._compressed += len(self._compressor.compress(data))
            yield text

    def duplicates(self) -> float:
        digests = np.frombuffer(self._digests, "V16")
        return 1 - len(np.unique(digests)) / len(digests)

    def compression(self) -> float:
        return self._bytes / (self._compressed + len(self._compressor.flush()))


def _batches(documents: Iterable[str], ids: defaultdict[str, int]) -> Iterator[_Batch]:
    """Yield batches of whole documents; `ids` numbers the words and grows by the new ones."""
    lengths, words, size = array("q"), array("Q"), 0
    for text in documents:
        found = split_words(text)
        lengths.append(len(found))
        words.extend(map(ids.__getitem__, found))
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield np.array(lengths), np.array(words)
            lengths, words, size = array("q"), array("Q"), 0
    if lengths:
        yield np.array(lengths), np.array(words)


def _ngrams(lengths: np.ndarray, words: np.ndarray) -> dict[int, np.ndarray]:
    """Hash the n-grams of a batch, in the order of the text, to uint64, for n = 1 to 7."""
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words left in document
    hashes = mixed = _mix(words)
    ngrams = {1: hashes}
    for n in range(2, max(NOVELTY_SIZES) + 1):
        hashes = _mix(hashes[:-1] * _GOLDEN + mixed[n - 1 :])
        ngrams[n] = hashes[left[: len(hashes)] >= n]
    return ngrams


def _mix(x: np.ndarray) -> np.ndarray:
    """Mix as SplitMix64 does (Steele et al. 2014): one to one; each bit of x affects the whole
    result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _distinct_values(values: np.ndarray) -> np.ndarray:
    """Return the distinct values, sorted. `np.unique` hashes uint64, which is ten times slower."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])[: len(values)]]


class _Novelty:
    """The n-grams of a reference, and how many n-grams of a corpus it lacks."""

    def __init__(self, reference: Iterable[str], ids: defaultdict[str, int]) -> None:
        self.reference_words = 0
        parts: dict[int, list[np.ndarray]] = {n: [] for n in NOVELTY_SIZES}
        for lengths, words in _batches(reference, ids):
            self.reference_words += len(words)
            ngrams = _ngrams(lengths, words)
            for n in NOVELTY_SIZES:
                parts[n].append(_distinct_values(ngrams[n]))
        if not self.reference_words:
            raise UsageError("the reference for novelty holds no word")
        self._known = {n: _distinct_values(np.concatenate(parts.pop(n))) for n in NOVELTY_SIZES}
        self._novel, self._total = Counter[int](), Counter[int]()

    def add(self, ngrams: dict[int, np.ndarray]) -> None:
        for n, known in self._known.items():
            hashes = np.sort(ngrams[n])  # searching sorted hashes is ten times faster
            first, last = (np.searchsorted(known, hashes, side) for side in ("left", "right"))
            self._novel[n] += int((first == last).sum())
            self._total[n] += len(hashes)

    def shares(self) -> dict[int, float | None]:
        return {n: _share(self._novel[n], self._total[n]) for n in NOVELTY_SIZES}


def _distinct(lengths: np.ndarray, head: np.ndarray) -> dict[int, float | None]:
    """Return distinct-n of `head`, the first words of documents of these `lengths`."""
    ngrams = _ngrams(np.diff(np.minimum(np.cumsum(lengths), len(head)), prepend=0), head)
    return {n: _share(len(_distinct_values(ngrams[n])), len(ngrams[n])) for n in (1, 2, 3, 4)}


def _repetitions(hashes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return, for each document with 4-grams, the share of them that occurred earlier in it."""
    counts = np.maximum(lengths - 3, 0)
    document = np.repeat(np.arange(len(lengths)), counts)
    _, first = np.unique(hashes ^ _mix(document.astype(np.uint64)), return_index=True)
    distinct = np.bincount(document[first], minlength=len(lengths))
    return 1 - distinct[counts > 0] / counts[counts > 0]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _lengths(values: np.ndarray) -> Lengths:
    median, p95 = np.percentile(values, [50, 95])
    return Lengths(float(values.mean()), float(median), float(p95))
