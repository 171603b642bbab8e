"""The trie holds every sequence once, and its batches score every token once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdgen.eval.scoring import trie as module
from cdgen.eval.scoring.trie import Trie, batches, build_trie

Sequences = list[list[int]]
some = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=7), min_size=1, max_size=40)


def build(sequences: Sequences, first: int = 1) -> Trie:
    lengths = np.array([len(s) for s in sequences], np.int64)
    tokens = np.array([token for s in sequences for token in s], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return build_trie(tokens, offsets, np.full(len(lengths), first), lengths - 1)


def path_to(trie: Trie, node: int) -> list[int]:
    path = []
    while node >= 0:
        path.insert(0, int(trie.tokens[node]))
        node = int(trie.parents[node])
    return path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink the blocks in which sequences are laid side by side, so that there are several."""
    monkeypatch.setattr(module, "_BLOCK", 3)


@given(some)
@example([[0]])
@example([[1, 2], [1, 2], [1], [1, 2, 3]])
@settings(max_examples=200, deadline=None)
def test_nodes_are_the_different_beginnings(sequences: Sequences) -> None:
    trie = build(sequences)
    beginnings = {tuple(s[: end + 1]) for s in sequences for end in range(len(s))}
    assert sorted(tuple(path_to(trie, n)) for n in range(len(trie.tokens))) == sorted(beginnings)
    assert trie.depths.tolist() == [len(path_to(trie, n)) - 1 for n in range(len(trie.tokens))]
    for sequence, last, before in zip(sequences, trie.last, trie.before, strict=True):
        assert path_to(trie, int(last)) == sequence
        assert path_to(trie, int(before)) == sequence[:1]


@given(some)
@settings(max_examples=100, deadline=None)
def test_nodes_are_in_depth_first_order(sequences: Sequences) -> None:
    path: list[int] = []
    for node, parent in enumerate(build(sequences).parents.tolist()):
        while path and path[-1] != parent:
            path.pop()
        assert path or parent == -1
        path.append(node)


@given(some, st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_span_sums(sequences: Sequences, first: int, random: np.random.RandomState) -> None:
    """They equal a sum along each sequence, infinities included."""
    trie = build(sequences, first)
    values = np.array([random.choice([-1.5, -0.25, -np.inf]) for _ in trie.tokens])
    by_path = {tuple(path_to(trie, node)): values[node] for node in range(len(values))}
    expected = [sum(by_path[tuple(s[: i + 1])] for i in range(first, len(s))) for s in sequences]
    assert trie.span_sums(values).tolist() == expected


@given(some, st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_batches_score_every_node_but_the_roots_once(sequences: Sequences, size: int) -> None:
    trie = build(sequences)
    scored: list[int] = []
    for batch in batches(trie, size):
        assert len(batch.nodes) - batch.context <= size
        for place, parent in enumerate(batch.parents):
            above = int(trie.parents[batch.nodes[place]])
            assert (batch.nodes[parent] if parent >= 0 else -1) == above
        own = batch.nodes[batch.context :]
        assert trie.parents[batch.children].tolist() == own[batch.rows].tolist()
        assert (np.diff(batch.rows) >= 0).all()
        scored += batch.children.tolist()
    assert sorted(scored) == np.nonzero(trie.parents >= 0)[0].tolist()


def test_large_token_ids_sort_as_numbers() -> None:
    trie = build([[1, 70000], [1, 255], [1, 256], [1, 2**30]])
    assert trie.tokens.tolist() == [1, 255, 256, 70000, 2**30]
