"""How long the rest of a range takes, by the rates measured so far."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from cdgen.generation.pace import RangePace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock of `RangePace`."""

    def set_clock(now: float) -> None:
        monkeypatch.setattr("time.monotonic", lambda: now)

    set_clock(0.0)
    return set_clock


def test_nothing_is_known_before_the_first_token(clock: Callable[[float], None]) -> None:
    pace = RangePace(100)
    pace.begin(8)
    assert pace.seconds_left() == math.inf


def test_by_tokens_in_the_first_range(clock: Callable[[float], None]) -> None:
    pace = RangePace(max_new_tokens=100)
    pace.begin(8)
    pace.step(200)
    clock(10.0)
    assert pace.seconds_left() == pytest.approx(30.0)  # 600 of 800 at 20 a second
    pace.sequence(30)
    pace.sequence(70)
    assert pace.seconds_left() == pytest.approx(10.0)  # 200 of 8 x 50
    pace.step(500)
    assert pace.seconds_left() == 0.0


def test_by_the_last_range_or_by_tokens_whichever_is_longer(
    clock: Callable[[float], None],
) -> None:
    pace = RangePace(max_new_tokens=100)
    pace.begin(8)
    for _ in range(8):
        pace.sequence(50)
    clock(40.0)
    pace.finish()
    pace.begin(4)  # the last one is shorter
    assert pace.seconds_left() == pytest.approx(20.0)  # 5 s a sequence
    clock(50.0)
    pace.step(100)
    assert pace.seconds_left() == pytest.approx(10.0)
    clock(80.0)  # slower than the last one
    assert pace.seconds_left() == pytest.approx(40.0)
