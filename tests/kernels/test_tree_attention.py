"""Attention over a forest of sequences on the CPU, against fp64 and against each sequence alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdgen.kernels import reference
from cdgen.kernels.tree_attention import Forest, tree_attention

# For outputs of order 1: fp32 sums of up to 128 products and 70 weights, and an exp of 2 ulp.
ATOL, RTOL = 2e-6, 2e-5


def random_forest(nodes: int, seed: int) -> torch.Tensor:  # [nodes] int64 parents
    """Return depth-first parents with several roots and paths of 1 to about 70 nodes."""
    generator = torch.Generator().manual_seed(seed)
    path: list[int] = []
    parents = []
    for node in range(nodes):
        if float(torch.rand((), generator=generator)) < 0.1:
            path = path[: int(torch.randint(0, len(path) + 1, (), generator=generator))]
        parents.append(path[-1] if path else -1)
        path.append(node)
    return torch.tensor(parents)


def problem(
    nodes: int, heads: int, kv_heads: int, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Forest]:
    generator = torch.Generator().manual_seed(head_dim)
    query = torch.randn(nodes, heads, head_dim, generator=generator)
    keys, values = torch.randn(2, nodes, kv_heads, head_dim, generator=generator)
    return query, keys, values, Forest(random_forest(nodes, head_dim))


def attend64(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, forest: Forest, scale: float
) -> torch.Tensor:  # [N, H, Dh] float64: node by node, along the path of its ancestors
    group = query.shape[1] // keys.shape[1]
    out = torch.zeros(query.shape, dtype=torch.float64)
    parents = forest.parents.tolist()
    for node in range(len(query)):
        path = [node]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        for head in range(query.shape[1]):
            k, v = (x[path, head // group].double() for x in (keys, values))
            out[node, head] = (scale * k @ query[node, head].double()).softmax(0) @ v
    return out


@pytest.mark.parametrize("head_dim", [1, 3, 7, 8, 9, 16, 20, 64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (4, 2), (3, 1)])
def test_against_fp64(instruction_set: str, heads: int, kv_heads: int, head_dim: int) -> None:
    query, keys, values, forest = problem(90, heads, kv_heads, head_dim)
    out = tree_attention(query, keys, values, forest, scale=head_dim**-0.5)
    expected = attend64(query, keys, values, forest, head_dim**-0.5)
    torch.testing.assert_close(out.double(), expected, atol=ATOL, rtol=RTOL)


def test_reference_and_mask_are_the_same_attention() -> None:
    query, keys, values, forest = problem(60, 4, 2, 12)
    assert torch.equal(forest.mask, reference.ancestors(forest.parents))
    out = tree_attention(query, keys, values, forest, scale=0.3, backend="reference")
    expected = attend64(query, keys, values, forest, 0.3)
    torch.testing.assert_close(out.double(), expected, atol=ATOL, rtol=RTOL)


def test_through_pytorchs_attention_under_the_mask() -> None:
    """Tensors on a GPU take this path; here it runs on the CPU."""
    from cdgen.kernels.tree_attention import _masked

    query, keys, values, forest = problem(60, 4, 2, 16)
    out = _masked(query, keys, values, forest.mask, 0.3)
    expected = attend64(query, keys, values, forest, 0.3)
    torch.testing.assert_close(out.double(), expected, atol=ATOL, rtol=RTOL)


@given(st.integers(1, 300), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_mask_of_any_forest(nodes: int, seed: int) -> None:
    forest = Forest(random_forest(nodes, seed))
    assert torch.equal(forest.mask, reference.ancestors(forest.parents))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 31, 32, 33, 64, 65, 257])
def test_one_sequence_is_causal_attention(instruction_set: str, length: int) -> None:
    query, keys, values, _ = problem(length, 2, 2, 8)
    chain = Forest(torch.arange(-1, length - 1))
    out = tree_attention(query, keys, values, chain, scale=0.5)
    q, k, v = (x.transpose(0, 1)[None].double() for x in (query, keys, values))
    attend = torch.nn.functional.scaled_dot_product_attention
    expected = attend(q, k, v, is_causal=True, scale=0.5)[0].transpose(0, 1)
    torch.testing.assert_close(out.double(), expected, atol=ATOL, rtol=RTOL)


def test_a_path_on_its_own_gives_the_same_bits(instruction_set: str) -> None:
    """Nodes beside a node's ancestors, or before them in the batch, change nothing."""
    query, keys, values, forest = problem(700, 4, 2, 16)  # three blocks of nodes
    whole = tree_attention(query, keys, values, forest, scale=0.3)
    for node in (0, 255, 256, 300, 511, 512, 699):
        path = [node]
        while (above := int(forest.parents[path[0]])) >= 0:
            path.insert(0, above)
        chain = Forest(torch.arange(-1, len(path) - 1))
        alone = tree_attention(query[path], keys[path], values[path], chain, scale=0.3)
        assert torch.equal(alone[-1], whole[node])


def test_threads_change_no_bit(
    instruction_set: str,
    one_and_two_threads: Callable[[Callable[[], Any]], tuple[Any, Any]],
) -> None:
    query, keys, values, forest = problem(2**13, 4, 2, 16)
    one, two = one_and_two_threads(lambda: tree_attention(query, keys, values, forest, scale=0.3))
    assert torch.equal(one, two)


def test_any_strides_but_the_last() -> None:
    """Heads may be side by side in a row, or outermost as transformers lays them out."""
    query, keys, values, forest = problem(50, 4, 2, 16)
    clean = tree_attention(query, keys, values, forest, scale=0.3)
    heads_first = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (query, keys, values)]
    assert torch.equal(tree_attention(*heads_first, forest, scale=0.3), clean)
    fused = torch.cat([query.flatten(1), keys.flatten(1), values.flatten(1)], dim=1)
    parts = fused.split([64, 32, 32], dim=1)
    views = [x.unflatten(1, (-1, 16)) for x in parts]
    assert torch.equal(tree_attention(*views, forest, scale=0.3), clean)


def test_nan_reaches_the_nodes_below_it_alone(instruction_set: str) -> None:
    query, keys, values, forest = problem(120, 2, 2, 8)
    clean = tree_attention(query, keys, values, forest, scale=0.3)
    node = 40
    keys[node, 1] = math.nan
    out = tree_attention(query, keys, values, forest, scale=0.3)
    reached = torch.zeros_like(clean, dtype=torch.bool)
    reached[forest.mask[:, node], 1] = True
    assert 1 < int(forest.mask[:, node].sum()) < 80
    assert out.isnan().tolist() == reached.tolist()
    assert torch.equal(out[~reached], clean[~reached])


@pytest.mark.parametrize("parents", [[-1, 0, 0, 1], [-1, 2, 0], [0, 0], [-1, -2]])
def test_nodes_out_of_order_are_refused(parents: list[int]) -> None:
    x = torch.randn(len(parents), 1, 8)
    with pytest.raises(ValueError, match="depth-first order"):
        tree_attention(x, x, x, Forest(torch.tensor(parents)), scale=1.0)


def test_tensors_that_do_not_fit_are_refused() -> None:
    query, keys, values, forest = problem(10, 4, 2, 8)
    bad: list[tuple[str, tuple[Any, ...]]] = [
        ("parents", (query, keys, values, Forest(forest.parents[:9]))),
        ("parents", (query, keys, values, Forest(forest.parents.int()))),
        ("keys", (query, keys[:9], values, forest)),
        ("keys", (query, keys[:, :, :4], values, forest)),
        ("keys", (query[:, :3], keys, values, forest)),
        ("values", (query, keys, values[:, :1], forest)),
        ("values", (query, keys, values.double(), forest)),
        ("query", (query.double(), keys.double(), values.double(), forest)),
        ("query", (query.mT.contiguous().mT, keys, values, forest)),
    ]
    for name, arguments in bad:
        with pytest.raises(ValueError, match=name):
            tree_attention(*arguments, scale=1.0)
    with pytest.raises(ValueError, match="triton"):
        tree_attention(query, keys, values, forest, scale=1.0, backend="triton")
