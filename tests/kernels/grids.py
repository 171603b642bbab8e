"""Test parameters as grids, thinned by default so that every pair of values still meets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import pytest

Axis = Mapping[str, Any]  # value by its id


def thinned(*axes: Axis | Iterable[Any], keep_every: int = 3) -> list[Any]:
    """Return every combination of the axes' values as a pytest.param.

    The combinations whose indices add up to a multiple of `keep_every` run always, the others are
    marked `thorough`. With three axes or more, of `keep_every` values and more along the longest,
    each value of an axis is still combined with each value of every other axis.
    """
    named = [axis if isinstance(axis, Mapping) else {_id(x): x for x in axis} for axis in axes]
    cells = []
    for indices in product(*(range(len(axis)) for axis in named)):
        items = [list(axis.items())[i] for axis, i in zip(named, indices, strict=True)]
        marks = [pytest.mark.thorough] if sum(indices) % keep_every else []
        ids, values = zip(*items, strict=True)
        cells.append(pytest.param(*values, id="-".join(ids), marks=marks))
    return cells


def _id(value: Any) -> str:
    return str(value).removeprefix("torch.")
