"""Attention over a forest of token sequences: each node attends to itself and its ancestors, so a
beginning that sequences share is computed once."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F

from cdgen.kernels import reference
from cdgen.kernels.arguments import addresses
from cdgen.kernels.dispatch import choose_backend, native, threads


class Forest:
    """Token sequences as trees: `parents` [N] int64 holds the parent of each node, -1 for a root.

    Nodes are in depth-first order, so node j and its descendants are a run of nodes from j on.
    """

    def __init__(self, parents: torch.Tensor) -> None:
        self.parents = parents

    @cached_property
    def mask(self) -> torch.Tensor:  # [N, N] bool: True if node j is node i or above it
        count = len(self.parents)
        ends = list(range(1, count + 1))  # the run of node j ends before ends[j]
        for node, parent in reversed(list(enumerate(self.parents.tolist()))):
            if parent >= 0:
                ends[parent] = max(ends[parent], ends[node])
        node_j = torch.arange(count, device=self.parents.device)
        node_i = node_j[:, None]
        return (node_j <= node_i) & (node_i < torch.tensor(ends, device=node_j.device))


def tree_attention(
    query: torch.Tensor,  # [N, H, Dh], float32 on the CPU; any strides, but the last is 1
    keys: torch.Tensor,  # [N, Hkv, Dh], like query
    values: torch.Tensor,  # [N, Hkv, Dh], like query
    forest: Forest,
    *,
    scale: float,
    backend: str | None = None,
) -> torch.Tensor:  # [N, H, Dh]
    """Return softmax(scale * q . k) over a node and its ancestors, applied to their values.

    A node's result depends on its own ancestors alone, not on other nodes or the thread count.
    Tensors on a GPU go through PyTorch's attention under a mask of [N, N] bytes; there is no Triton
    kernel. Raises ValueError on tensors that do not fit and, on the CPU, on nodes that are not in
    depth-first order.
    """
    parents = forest.parents
    _check(query, keys, values, parents)
    if backend is None and query.device.type == "cuda":
        return _masked(query, keys, values, forest.mask, scale)
    chosen = choose_backend(query.device, backend)
    if chosen == "reference":
        return reference.tree_attention(query, keys, values, parents, scale)
    if chosen == "triton":
        raise ValueError("backend: tree_attention has no triton kernel; expected cpu or reference")
    return _native(query, keys, values, parents, scale)


def _check(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, parents: torch.Tensor
) -> None:
    nodes, heads, head_dim = query.shape
    for name, x in (("keys", keys), ("values", values), ("parents", parents)):
        if x.device != query.device:
            raise ValueError(f"{name}: expected device {query.device}, got {x.device}")
    if len(parents) != nodes or parents.dtype is not torch.int64 or not parents.is_contiguous():
        raise ValueError(
            f"parents: expected contiguous [{nodes}] int64, got {list(parents.shape)}"
            f" {parents.dtype}"
        )
    for name, x in (("query", query), ("keys", keys), ("values", values)):
        kv_heads = x.shape[1]
        if x.shape != (nodes, kv_heads, head_dim) or heads % kv_heads or x.dtype is not query.dtype:
            raise ValueError(
                f"{name}: expected [{nodes}, a divisor of {heads}, {head_dim}] {query.dtype},"
                f" got {list(x.shape)} {x.dtype}"
            )
    if keys.shape != values.shape:
        raise ValueError(f"values: expected {list(keys.shape)}, got {list(values.shape)}")


def _native(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    parents: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    nodes, _, head_dim = query.shape
    for name, x in (("query", query), ("keys", keys), ("values", values)):
        if x.dtype is not torch.float32 or x.stride(2) != 1:
            raise ValueError(
                f"{name}: expected float32 with a last stride of 1, got {x.dtype} {x.stride()}"
            )
    out = torch.empty(query.shape)
    inputs = [
        native.NodeHeads(x.data_ptr(), x.stride(0), x.stride(1), x.shape[1])
        for x in (query, keys, values)
    ]
    misplaced = native.tree_attention(
        *inputs, *addresses(parents, out), nodes, head_dim, scale, threads()
    )
    if misplaced >= 0:
        raise ValueError(
            f"parents: expected depth-first order, got {int(parents[misplaced])} at {misplaced}"
        )
    return out


def _masked(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,  # [N, N] bool
    scale: float,
) -> torch.Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (query, keys, values))
    grouped = query.shape[1] != keys.shape[1]  # query heads share KV heads
    out = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=grouped)
    return out[0].transpose(0, 1)
