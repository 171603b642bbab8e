"""The rule for GOOD and BAD, on losses by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdgen.errors import ModelError
from cdgen.train.metrics import METRICS
from cdgen.train.pair.choice import choose_pair, choose_pair_of_run


def test_good_is_the_best_and_bad_the_last_far_enough_behind() -> None:
    run, losses = Path("run"), {1: 5.0, 2: 4.0, 3: 3.6, 4: 3.0, 5: 3.9}
    assert choose_pair(run, losses, 0.5, "") == (4, 3)
    assert choose_pair(run, losses, 0.7, "") == (4, 2)
    message = (
        "run: no checkpoint before GOOD (step 4, loss 3.0000) is 2.5 nats/token above it,"
        " at most 2.0000: train longer"
    )
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        choose_pair(run, losses, 2.5, "train longer")


def test_the_earlier_of_two_equal_losses_is_good() -> None:
    assert choose_pair(Path("run"), {1: 4.0, 2: 3.0, 3: 3.0}, 0.5, "") == (2, 1)


def test_a_run_without_losses_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1, "loss": 4.0}\n')
    with pytest.raises(ModelError, match="has no validation loss of a checkpoint: train again"):
        choose_pair_of_run(tmp_path, 0.5)
