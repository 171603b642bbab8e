"""Data that several tests of tasks share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_csv(unpacked: Callable[[str], Path]) -> Path:
    """Return the reading times of the real data."""
    return unpacked("babylm2025_full") / "reading/reading_data.csv"
