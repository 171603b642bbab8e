"""Random checkpoints of the architectures in `loading_models`, and changed copies of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_folders import edit_tensors
from loading_models import CONFIGS, Tensors


@pytest.fixture(scope="session")
def saved(
    save_random: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return the folder of one of CONFIGS with random weights; it must not be changed."""
    folder = tmp_path_factory.mktemp("models")

    def save(name: str) -> Path:
        if not (folder / name).exists():
            save_random(CONFIGS[name], folder / name)
        return folder / name

    return save


@pytest.fixture
def changed(saved: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Return a copy of a model with its tensors edited."""

    def change(name: str, edit: Callable[[Tensors], Tensors]) -> Path:
        folder = Path(shutil.copytree(saved(name), tmp_path / name))
        edit_tensors(folder, edit)
        return folder

    return change
