"""Token sequences as a trie: what sequences have in common from the beginning on is one node per
token, computed once.

The two sentences of a minimal pair, the options of an item, and thousands of items with the same
beginning share most of their tokens; a causal model gives a token the same hidden state whatever
follows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_BLOCK = 1024  # sequences that are laid side by side at a time: bounds the memory of a build


@dataclass(frozen=True)
class Trie:
    """M nodes in depth-first order, and between which of them each of n sequences is scored."""

    tokens: np.ndarray  # [M] int64
    parents: np.ndarray  # [M] int64, -1 for the first token of a sequence
    depths: np.ndarray  # [M] int64, 0 for the first token of a sequence
    before: np.ndarray  # [n] int64: the node before the first scored token
    last: np.ndarray  # [n] int64: the node of the last scored token

    def span_sums(self, log_probs: np.ndarray) -> np.ndarray:  # [M] float64 -> [n] float64
        """The sum of each sequence's scored tokens."""
        # A running sum from the root loses what lies beyond an infinite value: those are counted.
        impossible = np.isneginf(log_probs)
        sums = self._from_the_root(np.where(impossible, 0.0, log_probs))
        infinities = self._from_the_root(impossible.astype(np.float64))
        span = sums[self.last] - sums[self.before]
        return np.where(infinities[self.last] > infinities[self.before], -np.inf, span)

    def _from_the_root(self, values: np.ndarray) -> np.ndarray:  # [M] -> [M]
        sums = values.copy()
        by_depth = np.argsort(self.depths, kind="stable")
        levels = np.searchsorted(self.depths[by_depth], np.arange(1, self.depths.max() + 2))
        for start, end in pairwise(levels.tolist()):
            nodes = by_depth[start:end]
            sums[nodes] += sums[self.parents[nodes]]
        return sums


def build_trie(
    tokens: np.ndarray,  # [T] int32, none negative
    offsets: np.ndarray,  # [n + 1] int64: sequence i is tokens[offsets[i] : offsets[i + 1]]
    first: np.ndarray,  # [n] int64, 1 or more: index of the first token to score
    last: np.ndarray,  # [n] int64: of the last one; below `first` where none is scored
) -> Trie:
    lengths = np.diff(offsets)
    before, final = np.zeros_like(lengths), np.zeros_like(lengths)
    parts: list[_Part] = []
    count, above = 0, _Above(np.empty(0, np.int64), np.empty(0, np.int64))
    order = _sorted(tokens, offsets)
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        rows = _side_by_side(tokens, offsets, block, max(lengths[block].max(), len(above.tokens)))
        part, paths = _new_nodes(rows, lengths[block], above, count)
        parts.append(part)
        count += len(part.tokens)
        each, end = np.arange(len(block)), lengths[block] - 1
        before[block] = paths[each, np.minimum(first[block] - 1, end)]
        final[block] = paths[each, np.minimum(np.maximum(last[block], first[block] - 1), end)]
        above = _Above(rows[-1, : lengths[block[-1]]], paths[-1, : lengths[block[-1]]])
    return Trie(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.parents for part in parts]),
        np.concatenate([part.depths for part in parts]),
        before,
        final,
    )


@dataclass(frozen=True)
class _Part:
    """The nodes that a block of sequences adds."""

    tokens: np.ndarray
    parents: np.ndarray
    depths: np.ndarray


@dataclass(frozen=True)
class _Above:
    """The last sequence of the block before, and its nodes."""

    tokens: np.ndarray
    nodes: np.ndarray


def _new_nodes(
    rows: np.ndarray,  # [b, L] int64 tokens in sorted order, -1 past the end
    lengths: np.ndarray,  # [b] int64
    above: _Above,
    count: int,  # of nodes so far
) -> tuple[_Part, np.ndarray]:  # and [b, L] int64: the node of each token
    column = np.arange(rows.shape[1])
    shared = _shared(rows, above.tokens)
    fresh = (column >= shared[:, None]) & (column < lengths[:, None])
    sizes = fresh.sum(1)
    begin = count + np.cumsum(sizes) - sizes
    paths = np.where(fresh, begin[:, None] + column - shared[:, None], -1)
    paths[0, : shared[0]] = above.nodes[: shared[0]]
    # Later sequences have later nodes: the largest so far in a column is the one on the path.
    paths = np.maximum.accumulate(paths, axis=0)
    parents = np.where(column > 0, np.roll(paths, 1, axis=1), -1)
    return _Part(rows[fresh], parents[fresh], np.nonzero(fresh)[1]), paths


def _sorted(tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The order of the sequences by their tokens: big-endian bytes compare as the numbers do."""
    data = tokens.astype(">u4").tobytes()
    keys = [data[begin:end] for begin, end in pairwise((4 * offsets).tolist())]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _side_by_side(
    tokens: np.ndarray, offsets: np.ndarray, block: np.ndarray, width: int
) -> np.ndarray:  # [b, width] int64, -1 past the end
    at = offsets[block][:, None] + np.arange(width)
    inside = at < offsets[block + 1][:, None]
    return np.where(inside, tokens[np.minimum(at, len(tokens) - 1)], np.int64(-1))


def _shared(rows: np.ndarray, above: np.ndarray) -> np.ndarray:  # [b] int64
    """How many tokens each row has in common with the one before it; the first with `above`."""
    previous = np.full_like(rows, -1)
    previous[1:] = rows[:-1]
    previous[0, : len(above)] = above
    same = (rows == previous) & (rows >= 0)
    return np.where(same.all(1), rows.shape[1], np.argmin(same, axis=1))


@dataclass(frozen=True)
class Batch:
    """What one forward pass computes: some nodes that have children, after the ancestors of the
    first of them; and the children whose probability it gives."""

    nodes: np.ndarray  # [N] int64, ascending
    parents: np.ndarray  # [N] int64: places in `nodes`, -1 for roots
    context: int  # how many of `nodes` belong to an earlier batch
    children: np.ndarray  # [E] int64: nodes
    rows: np.ndarray  # [E] int64, ascending: places of their parents in nodes[context:]


def batches(trie: Trie, size: int) -> Iterator[Batch]:
    """Forward passes of `size` nodes, and their context, that together score every node but the
    roots."""
    by_parent = np.argsort(trie.parents, kind="stable")
    by_parent = by_parent[np.searchsorted(trie.parents[by_parent], 0) :]
    parent_of = trie.parents[by_parent]
    inner = parent_of[np.diff(parent_of, prepend=-1) > 0]
    for start in range(0, len(inner), size):
        own = inner[start : start + size]
        context = _ancestors(trie, int(own[0]))
        nodes = np.concatenate([context, own])
        above = trie.parents[nodes]
        parents = np.where(above >= 0, np.searchsorted(nodes, above), -1)
        begin, end = np.searchsorted(parent_of, [own[0], own[-1] + 1])
        rows = np.searchsorted(own, parent_of[begin:end])
        yield Batch(nodes, parents, len(context), by_parent[begin:end], rows)


def _ancestors(trie: Trie, node: int) -> np.ndarray:  # from the root down
    path = []
    while (node := int(trie.parents[node])) >= 0:
        path.append(node)
    return np.array(path[::-1], np.int64)
