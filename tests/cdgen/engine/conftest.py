"""The sequences of the tiny pair, each from a run of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from whole_text import CD, UNIVERSE, by_id, make_engine

from cdgen.engine.sequences import Limits, Sequence


@pytest.fixture(scope="module")
def alone(tiny_pair: Any) -> Callable[[Limits], dict[int, Sequence]]:
    """Return every sequence of UNIVERSE from a run of its own."""

    @cache
    def run(limits: Limits) -> dict[int, Sequence]:
        engine = make_engine(tiny_pair, CD, limits, logprobs=True)
        return by_id(sequence for r in UNIVERSE for sequence in engine.generate([r]))

    return run
