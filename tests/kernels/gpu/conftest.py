"""Fixtures of the Triton kernels' tests."""

from __future__ import annotations

import pytest

from cdgen.kernels.dispatch import interpreting
from cdgen.kernels.gpu import sample_contrastive as gpu


@pytest.fixture(autouse=True)
def _short_sorted_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the sorted lists in the interpreter, which takes a second to sort 1,024 numbers. Then
    both ways to the cut of truncation are taken, also in the small vocabularies of these tests."""
    if interpreting():
        monkeypatch.setattr(gpu, "SORTED", 32)
