"""The sums over rows, against NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cdgen.report.reading import QUARANTINED, Reading, bin_of, bin_start, texts_while_reading


def read(lengths: list[int], reason: str = "length", **more: Any) -> Reading:
    """Read rows of these lengths; every tenth row is a sample."""

    def rows() -> Iterator[dict[str, Any]]:
        for number, length in enumerate(lengths):
            fields = {"sequence_id": number, "prompt_id": 0, "text": f"t{number}"}
            fields |= {"prompt_tokens": 2, "new_tokens": length, "finish_reason": reason}
            yield {**fields, "mean_plausible": float(1 + number % 8), **more}

    reading = Reading()
    texts = list(texts_while_reading(rows(), reading, lambda index, _: index % 10 == 0))
    assert texts == [f"t{number}" for number in range(len(lengths))], "every text goes on"
    return reading


def test_lengths() -> None:
    lengths = np.random.default_rng(0).integers(0, 50, 1000).tolist()
    reading = read(lengths)
    assert reading.rows == 1000 and reading.new_tokens == sum(lengths)
    assert reading.length_at(0.5) == np.percentile(lengths, 50, method="inverted_cdf")
    assert reading.length_at(0.95) == np.percentile(lengths, 95, method="inverted_cdf")
    assert list(reading.samples) == list(range(0, 1000, 10))


def test_the_mean_plausible_set_is_that_of_all_draws() -> None:
    lengths = [3, 0, 5, 1]
    reading = read(lengths)
    assert reading.mean_plausible == (3 * 1 + 5 * 3 + 1 * 4) / 9
    assert reading.plausible.total() == 3, "a row without a draw has no set"
    assert read([1, 2], mean_plausible=float("nan")).mean_plausible is None


def test_only_some_quarantined_rows_are_kept() -> None:
    reading = read([0] * 100, "quarantined")
    assert [row.sequence_id for row in reading.quarantined] == list(range(QUARANTINED))
    assert reading.reasons["quarantined"] == 100


def test_no_row() -> None:
    reading = read([])
    assert reading.length_at(0.5) == 0 and reading.mean_plausible is None


@pytest.mark.parametrize("size", [1.0, 1.5, 4.0, 7.9999, 8.0, 50_000.0])
def test_a_size_lies_in_its_bin(size: float) -> None:
    assert bin_start(bin_of(size)) <= size < bin_start(bin_of(size) + 1)
