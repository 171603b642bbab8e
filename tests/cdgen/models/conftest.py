"""The random models of these tests, saved once per module."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from random_models import MODELS, Save


@pytest.fixture(scope="module")
def saved(save_random: Save, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of one of MODELS with random weights; it must not be changed."""

    @cache
    def save(name: str) -> Path:
        folder = save_random(MODELS[name], tmp_path_factory.mktemp("models") / name)
        (folder / "tokenizer.json").write_text("{}")
        return folder

    return save
