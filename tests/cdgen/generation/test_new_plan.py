"""The sizes that a new plan chooses."""

from __future__ import annotations

import pytest

from cdgen.generation.new_plan import RANGE_TOKENS, default_range_size


@pytest.mark.parametrize(
    ("device", "slots", "new_tokens", "sequences"),
    [
        ("cpu", 64, 400, 8 * 64),
        ("cuda", 1024, 400, 32 * 1024),
        ("cuda", 4096, 400, 10 * 4096),  # not 32 per slot, which is 52 million tokens
        ("cuda", 16, 2 * RANGE_TOKENS, 16),
    ],
)
def test_a_default_range_is_a_few_minutes_of_work_at_most(
    device: str, slots: int, new_tokens: int, sequences: int
) -> None:
    assert default_range_size(device, slots, new_tokens) == sequences
