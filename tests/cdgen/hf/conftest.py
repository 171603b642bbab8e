"""Pairs as transformers models, and prompts padded on the left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

DEMO = Path(__file__).resolve().parents[3] / "assets/demo-pair"


@pytest.fixture(scope="session")
def demo_pair() -> SimpleNamespace:
    return SimpleNamespace(good=DEMO / "good", bad=DEMO / "bad")


@pytest.fixture(scope="session")
def load_models() -> Callable[[Any], tuple[Any, Any]]:
    """Return GOOD and BAD of a pair of folders, loaded once, in float32."""
    loaded: dict[Any, tuple[Any, Any]] = {}

    def models(pair: Any) -> tuple[Any, Any]:
        if pair.good not in loaded:
            good, bad = (
                AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
                for folder in (pair.good, pair.bad)
            )
            loaded[pair.good] = good, bad
        return loaded[pair.good]

    return models
