"""The held-out loss against a loop over single blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_run import RECIPE, SPECIALS

from cdgen.train.config import Recipe
from cdgen.train.data.tokenizer import PAD_ID
from cdgen.train.model import new_model
from cdgen.train.validation import validation_losses


def test_the_validation_loss_is_the_mean_over_predicted_tokens() -> None:
    model = new_model(Recipe.model_validate(RECIPE), SPECIALS)
    blocks = np.random.default_rng(0).integers(3, 300, (11, 16), dtype=np.int32)
    blocks[-1, 5:] = ~PAD_ID
    sums = []
    for block in torch.from_numpy(blocks).long():
        length = int((block >= 0).sum())
        loss = model(input_ids=block[None, :length], labels=block[None, :length]).loss
        sums.append(loss.item() * (length - 1))
    losses = validation_losses(model, {"first": blocks[:10], "last": blocks[10:]})
    assert losses["first"] == pytest.approx(sum(sums[:10]) / 150, rel=1e-5)
    assert losses["last"] == pytest.approx(sums[10] / 4, rel=1e-5)
    assert losses["all"] == pytest.approx(sum(sums) / 154, rel=1e-5)
    assert model.training
