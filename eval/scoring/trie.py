"""Token sequences as a trie: what sequences share from their beginning is one node per token, which
is computed once.

The two sentences of a minimal pair, the options of an item, and thousands of items with the same
beginning share most of their tokens. A causal model gives a token the same hidden state whatever
follows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_BLOCK = 1024  # sequences laid side by side at a time; bounds the memory of a build


@dataclass(frozen=True)
class Trie:
    """The nodes in depth-first order, and those between which each of n sequences is scored."""

    tokens: np.ndarray  # [nodes] int64
    parents: np.ndarray  # [nodes] int64, -1 for the first token of a sequence
    depths: np.ndarray  # [nodes] int64, 0 for the first token of a sequence
    before: np.ndarray  # [n] int64: the node before the first scored token
    last: np.ndarray  # [n] int64: the node of the last scored token

    def span_sums(self, log_probs: np.ndarray) -> np.ndarray:  # [nodes] float64 -> [n] float64
        """Sum the log-probabilities of each sequence's scored tokens."""
        # A difference of running sums is undefined beyond an infinite value: those are counted.
        impossible = np.isneginf(log_probs)
        sums = self._from_the_root(np.where(impossible, 0.0, log_probs))
        infinities = self._from_the_root(impossible.astype(np.float64))
        span = sums[self.last] - sums[self.before]
        return np.where(infinities[self.last] > infinities[self.before], -np.inf, span)

    def _from_the_root(self, values: np.ndarray) -> np.ndarray:  # [nodes] -> [nodes]
        """Sum the values along the path from the root to each node."""
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
    last: np.ndarray,  # [n] int64: index of the last one; below `first` if none is scored
) -> Trie:
    """Merge the sequences into a trie, a block of sorted sequences at a time."""
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
    """The nodes that a block of sequences adds to the trie."""

    tokens: np.ndarray
    parents: np.ndarray
    depths: np.ndarray


@dataclass(frozen=True)
class _Above:
    """The last sequence of the previous block, and its nodes."""

    tokens: np.ndarray
    nodes: np.ndarray


def _new_nodes(
    rows: np.ndarray,  # [B, T] int64 tokens in sorted order, -1 past the end
    lengths: np.ndarray,  # [B] int64
    above: _Above,
    count: int,  # nodes so far
) -> tuple[_Part, np.ndarray]:  # the new nodes; [B, T] int64: the node of each token
    column = np.arange(rows.shape[1])
    shared = _shared(rows, above.tokens)
    fresh = (column >= shared[:, None]) & (column < lengths[:, None])
    sizes = fresh.sum(1)
    begin = count + np.cumsum(sizes) - sizes
    paths = np.where(fresh, begin[:, None] + column - shared[:, None], -1)
    paths[0, : shared[0]] = above.nodes[: shared[0]]
    # Later sequences have later nodes: the largest node so far in a column is on the path.
    paths = np.maximum.accumulate(paths, axis=0)
    parents = np.where(column > 0, np.roll(paths, 1, axis=1), -1)
    return _Part(rows[fresh], parents[fresh], np.nonzero(fresh)[1]), paths


def _sorted(tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the order of the sequences by their tokens; big-endian bytes compare as numbers do."""
    data = tokens.astype(">u4").tobytes()
    keys = [data[begin:end] for begin, end in pairwise((4 * offsets).tolist())]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _side_by_side(
    tokens: np.ndarray, offsets: np.ndarray, block: np.ndarray, width: int
) -> np.ndarray:  # [B, width] int64, -1 past the end
    at = offsets[block][:, None] + np.arange(width)
    inside = at < offsets[block + 1][:, None]
    return np.where(inside, tokens[np.minimum(at, len(tokens) - 1)], np.int64(-1))


def _shared(rows: np.ndarray, above: np.ndarray) -> np.ndarray:  # [B] int64
    """Count the first tokens that each row shares with the row before it; the first row, with
    `above`."""
    previous = np.full_like(rows, -1)
    previous[1:] = rows[:-1]
    previous[0, : len(above)] = above
    same = (rows == previous) & (rows >= 0)
    return np.where(same.all(1), rows.shape[1], np.argmin(same, axis=1))


@dataclass(frozen=True)
class Batch:
    """One forward pass: some nodes that have children, preceded by the ancestors of the first of
    them, and the children, which it gives probabilities."""

    nodes: np.ndarray  # [N] int64, ascending
    parents: np.ndarray  # [N] int64: places in `nodes`, -1 for roots
    context: int  # the first `context` of the nodes belong to an earlier batch
    children: np.ndarray  # [children] int64: their nodes in the trie
    rows: np.ndarray  # [children] int64, ascending: places of their parents in nodes[context:]


def batches(trie: Trie, size: int) -> Iterator[Batch]:
    """Yield forward passes over `size` nodes and their context; together they score every node but
    the roots."""
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
