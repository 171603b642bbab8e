"""Folders of made-up experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_experiment import ARMS, MadeUp, make_recipe


@pytest.fixture
def begun(tmp_path: Path) -> Callable[..., MadeUp]:
    """Return a function that begins an experiment, given changes to its recipe."""

    def begin(**changes: Any) -> MadeUp:
        return MadeUp(tmp_path / "out", make_recipe(**changes))

    return begin


@pytest.fixture
def whole(begun: Callable[..., MadeUp]) -> MadeUp:
    """Return a finished experiment of five arms and two ratios, in which cd is better."""
    made = begun(arms=ARMS, mixture={"ratios": [0.3, 0.5]})
    made.score_all({"baseline": 0.5, **dict.fromkeys(ARMS, 0.5), "cd": 0.8})
    for arm in ARMS:
        made.corpus(arm, strategy=ARMS[arm]["strategy"])
    return made
