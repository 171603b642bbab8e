"""Training, prompts and validation: disjoint, and the same whatever else is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.corpus.documents import open_source
from cdgen.errors import UsageError
from cdgen.train.config import Source
from cdgen.train.data.documents import Document
from cdgen.train.data.holdout import (
    Parts,
    prompt_lines,
    split_documents,
    split_sources,
)

DOCUMENTS = [Document(f"text {i}") for i in range(4000)]


def source(**fields: Any) -> Source:
    fixed = {"name": "source", "path": Path("a.txt"), "licence": "none", "split": "rows"}
    return Source.model_validate({**fixed, **fields})


def texts(documents: list[Document]) -> set[str]:
    return {document.text for document in documents}


def test_the_parts_have_their_shares_and_nothing_in_common() -> None:
    parts = split_documents(DOCUMENTS, source(validation=0.1), seed=0)
    found = [texts(part) for part in (parts.train, parts.prompts, parts.validation)]
    assert [len(part) for part in found] == pytest.approx([3400, 200, 400], abs=60)  # 3 sigma
    assert set.union(*found) == texts(DOCUMENTS)
    assert sum(map(len, found)) == len(DOCUMENTS)


@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_order_and_other_documents_move_nothing(random: Any, seed: int) -> None:
    few = random.sample(DOCUMENTS, 500)
    whole, part = (split_documents(d, source(), seed) for d in (DOCUMENTS, few))
    for name in ("train", "prompts", "validation"):
        assert texts(getattr(part, name)) == texts(getattr(whole, name)) & texts(few)


def test_the_parts_are_those_of_every_version_so_far() -> None:
    """Otherwise a student would be trained on text that its pair was measured on."""
    parts = split_documents(DOCUMENTS[:60], source(), seed=0)
    assert (sorted(texts(parts.prompts)), sorted(texts(parts.validation))) == (
        ["text 23", "text 3", "text 34", "text 44", "text 8"],
        ["text 37"],
    )


def test_another_seed_draws_other_documents() -> None:
    first, second = (split_documents(DOCUMENTS, source(), seed).prompts for seed in (0, 1))
    assert len(texts(first) & texts(second)) < len(first) / 5


def test_another_share_of_one_part_moves_nothing_in_the_other() -> None:
    less, more = (split_documents(DOCUMENTS, source(validation=v), 0) for v in (0.05, 0.2))
    assert less.prompts == more.prompts
    assert texts(less.validation) < texts(more.validation)


def test_chapters_of_a_book_and_copies_of_a_text_stay_together() -> None:
    chapters = [Document(f"chapter {i}", f"book {i % 50}") for i in range(300)]
    copies = [Document(f"copy {i % 40}") for i in range(200)]
    parts = split_documents(chapters + copies, source(validation=0.2, prompts=0.2), seed=0)
    found = [{d.identity for d in part} for part in (parts.train, parts.prompts, parts.validation)]
    assert sum(map(len, found)) == 90


def test_a_text_of_two_sources_is_never_trained_on_and_held_out() -> None:
    """Each source has its own shares; the second has some of the texts as chapters of books as
    well."""
    few = source(name="few", validation=0.2, prompts=0.1)
    books = [Document(f"text {i}", f"book {i % 40}") for i in range(2000)]
    given = [
        (few, DOCUMENTS[:3000]),
        (source(name="more", validation=0.05, prompts=0.3), books + DOCUMENTS[1000:]),
        (source(name="whole", validation=0, prompts=0), DOCUMENTS),
    ]
    parts, left_out = split_sources(given, 0)
    in_any: dict[str, set[str]] = {
        name: set().union(*(texts(getattr(p, name)) for p in parts.values()))
        for name in ("train", "prompts", "validation")
    }
    assert in_any["train"] and in_any["prompts"]
    assert not in_any["train"] & (in_any["prompts"] | in_any["validation"])
    assert not in_any["prompts"] & in_any["validation"]
    held = in_any["prompts"] | in_any["validation"]
    assert len(parts["whole"].train) == sum(d.text not in held for d in DOCUMENTS)
    # Validation is as each source deals it; what is missing is what was left out.
    assert parts["few"].validation == split_documents(DOCUMENTS[:3000], few, 0).validation
    dealt = sum(len(documents) for _, documents in given)
    kept = sum(len(p.train) + len(p.prompts) + len(p.validation) for p in parts.values())
    assert left_out == dealt - kept > 0


def test_a_work_that_one_source_holds_out_is_not_trained_on_under_another() -> None:
    first, second = ([Document(f"{n} {i}", f"book {i % 9}") for i in range(90)] for n in "ab")
    shares = {"validation": 0.4, "prompts": 0}
    parts, left_out = split_sources(
        [(source(name="a", **shares), first), (source(name="b", validation=0, prompts=0), second)],
        0,
    )
    held_out = {document.work for document in parts["a"].validation}
    assert held_out and left_out == sum(document.work in held_out for document in second)
    assert not held_out & {document.work for document in parts["b"].train}


def test_sources_of_the_same_shares_leave_nothing_out() -> None:
    given = [(source(name="a"), DOCUMENTS), (source(name="b"), DOCUMENTS[::-1])]
    parts, left_out = split_sources(given, 0)
    assert left_out == 0
    assert parts["a"] == split_documents(DOCUMENTS, source(), 0)


def test_a_source_that_another_holds_out_in_whole_is_refused() -> None:
    held_out = split_documents(DOCUMENTS, source(), 0).validation
    given = [(source(name="a"), DOCUMENTS), (source(name="b", validation=0, prompts=0), held_out)]
    with pytest.raises(UsageError, match="source b: all its documents for training are held out"):
        split_sources(given, 0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"validation": 0.001}, "falls to validation; correct its shares .validation 0.001"),
        ({"prompts": 0.001}, "falls to prompts"),
        ({"validation": 0.998, "prompts": 0.001}, "falls to train or prompts"),
    ],
)
def test_a_part_without_a_document_is_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=f"source source: none of its 20 documents.*{says}"):
        split_documents(DOCUMENTS[:20], source(**({"validation": 0.3, "prompts": 0.3} | fields)), 0)


def test_a_part_that_is_not_asked_for_may_be_empty() -> None:
    parts = split_documents(DOCUMENTS[:3], source(validation=0, prompts=0), 0)
    assert parts == Parts(DOCUMENTS[:3])


def test_prompts_are_what_generate_reads(tmp_path: Path) -> None:
    """Short documents are whole, longer ones in pieces, as in the paper."""
    long = " ".join(f"Sentence number {i}." for i in range(100))
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(prompt_lines({"a": [Document("One.\nTwo \u00e9.")], "b": [Document(long)]}))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["source"] for row in rows] == ["a", "b", "b", "b"]
    assert all(100 <= len(row["text"].split()) <= 200 for row in rows[1:3])
    assert list(open_source(str(path)).texts()) == [row["text"] for row in rows]
    assert " ".join(row["text"] for row in rows[1:]) == long
