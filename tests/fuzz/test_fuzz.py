"""A few hundred damaged files of every kind that is fuzzed: used, or refused in a line or two.

`make fuzz` searches for long; this only sees that the targets run, and that nothing simple is
wrong.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_targets import TARGETS, seeds
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

# Transformers makes a model, and Rust compiles a regular expression, for each of these.
_SLOW = {"config.json": 12, "tokenizer.json": 60, "recipe of cdgen run": 25}


@pytest.mark.parametrize("name", TARGETS)
def test_valid_files_and_single_edits(name: str, tmp_path: Path) -> None:
    case = TARGETS[name](tmp_path)
    chosen = seeds(name)
    for data in chosen[:: 1 + len(chosen) // 40]:
        case(data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    case = TARGETS[name](tmp_path)

    @settings(
        max_examples=_SLOW.get(name, 80),
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=[*HealthCheck],
    )
    @given(st.binary(max_size=24).map(lambda edits: b"\1" + edits))
    def try_cases(data: bytes) -> None:
        case(data)

    try_cases()
