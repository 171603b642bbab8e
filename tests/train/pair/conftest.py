"""The fixture that writes finished runs below runs/ of the test's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pair_runs import WriteRun, write_finished_run


@pytest.fixture
def write_run(tmp_path: Path, save_random: Callable[..., Path]) -> WriteRun:
    def write(name: str, losses: dict[int, float], **options: Any) -> Path:
        return write_finished_run(tmp_path / "runs" / name, losses, save_random, **options)

    return write
