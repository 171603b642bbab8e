"""The folder of a small corpus, and its format."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdgen.corpus import row_files


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture(params=["parquet", "jsonl"])
def format(request: pytest.FixtureRequest) -> str:
    """Return the format of the corpus's files."""
    return str(request.param)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Parquet's row groups so small that a file has several."""
    monkeypatch.setattr(row_files, "ROWS_PER_GROUP", 5)
