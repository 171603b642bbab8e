"""Held-out loss in nats per token.

The forward pass has the model's own precision (autocast while a bf16 run trains it); softmax and
sums are float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from cdgen.train.data.packing import read_and_taught

BATCH_BLOCKS = 8


@torch.inference_mode()
def validation_losses(
    model: PreTrainedModel, validation: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Return the mean loss of each source's blocks, and under "all" the mean over all their tokens.

    A block's first token has no context and is not predicted; padding is not counted.
    """
    was_training = model.training
    model.eval()
    sums = {name: _summed_loss(model, blocks) for name, blocks in validation.items()}
    model.train(was_training)
    losses = {name: loss / tokens for name, (loss, tokens) in sums.items()}
    total, count = (sum(column) for column in zip(*sums.values(), strict=True))
    return losses | {"all": total / count}


def _summed_loss(model: PreTrainedModel, blocks: np.ndarray) -> tuple[float, int]:
    loss, tokens = 0.0, 0
    for start in range(0, len(blocks), BATCH_BLOCKS):
        batch = torch.from_numpy(blocks[start : start + BATCH_BLOCKS].astype(np.int64))
        tokens_in, targets = read_and_taught(batch.to(model.device))
        loss += summed_loss(model(input_ids=tokens_in, use_cache=False).logits, targets)
        tokens += int((targets[:, 1:] != -100).sum())
    return loss, tokens


def summed_loss(
    logits: torch.Tensor,  # [B, T, V]
    labels: torch.Tensor,  # [B, T] int64, -100 for none
) -> float:
    """Return the summed loss, in nats, of every label but the first of a block."""
    return cross_entropy(
        logits[:, :-1].float().flatten(0, 1),
        labels[:, 1:].flatten(),
        ignore_index=-100,
        reduction="sum",
    ).item()
