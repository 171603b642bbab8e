"""The parts that views of progress are made of."""

from __future__ import annotations

import re

from cdgen.progress import memory_held, sparkline


def test_a_sparkline_shows_the_course_of_its_values() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0]) == "▁"
    assert sparkline([3.0, 1.0, 2.0, 1.0]) == "█▁▅▁"
    assert sparkline([5.0, 5.0]) == "▁▁"


def test_a_long_sparkline_averages_groups_and_ends_with_the_last_values() -> None:
    values = [*range(100, 0, -1)]
    drawn = sparkline(values, width=10)
    assert drawn == "█▇▆▆▅▄▃▃▂▁"
    assert sparkline([*values, 1000], width=10)[-1] == "█"
    assert len(sparkline(values, width=24)) <= 24


def test_the_memory_is_that_of_this_process() -> None:
    held = re.fullmatch(r"  (GPU )?memory (\d+\.\d) GB", memory_held())
    assert held and float(held[2]) > 0
