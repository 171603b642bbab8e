"""The pipeline against a training loop that owes transformers nothing but the model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from toy_run import RECIPE, SPECIALS, write_toy

from cdgen.train.config import Recipe, Training
from cdgen.train.data.tokenizer import PAD_ID
from cdgen.train.data.training_data import TrainingData, build_training_data
from cdgen.train.loop import train_recipe
from cdgen.train.model import new_model

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 30
# The one sums micro-batches in another order than the other; Adam divides by gradients near zero.
NOISE = 1e-4


def rate(training: Training, step: int) -> float:
    """Return the learning rate: a line to the peak, then half a cosine to zero; the first step has
    0."""
    if step < training.warmup_steps:
        return training.learning_rate * step / training.warmup_steps
    done = (step - training.warmup_steps) / (training.steps - training.warmup_steps)
    return training.learning_rate * (1 + math.cos(math.pi * done)) / 2


def batch(data: TrainingData, step: int, blocks: int) -> torch.Tensor:
    """Return the whole batch of a step [blocks, block_size], as the mixture deals it."""
    rows = []
    for position in range(step * blocks, (step + 1) * blocks):
        stream, index = data.mixture.at(position)
        rows.append(torch.from_numpy(data.train[stream][index]).long())
    return torch.stack(rows)


def adamw(model: nn.Module, training: Training) -> torch.optim.AdamW:
    """Return AdamW that decays the matrices of attention and feed-forward. The head is the
    embedding."""
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        (decayed if name.endswith("proj.weight") else spared).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}],
        lr=training.learning_rate,
        betas=(0.9, 0.95),
    )


def plain_loop(recipe: Recipe, data: TrainingData) -> tuple[list[float], nn.Module]:
    """Return (loss of every step, the trained model)."""
    training = recipe.training
    model = new_model(recipe, SPECIALS)
    optimizer = adamw(model, training)
    losses = []
    for step in range(training.steps):
        tokens = batch(data, step, training.batch_blocks)
        padding = tokens == ~PAD_ID
        logits = model(input_ids=tokens.masked_fill(padding, PAD_ID)).logits[:, :-1]
        targets = tokens.masked_fill(padding, -100)[:, 1:]
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate(training, step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model


def test_losses_and_weights_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    path, run = write_toy(tmp_path), tmp_path / "run"
    # Clipping bites (the norm is above 0.5), micro-batches of 1 are accumulated.
    changed = {"steps": STEPS, "checkpoint_every": 10, "max_grad_norm": 0.5}
    values: dict[str, Any] = {
        **RECIPE,
        "bad_gap": None,
        "training": {**RECIPE["training"], **changed, "micro_batch_blocks": 1},
    }
    path.write_text(yaml.safe_dump(values))
    train_recipe(path, tmp_path, run)
    recipe = Recipe.model_validate(values)
    losses, model = plain_loop(recipe, build_training_data(recipe, tmp_path))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in logged] == pytest.approx(losses, rel=NOISE)
    assert losses[-1] < losses[0] - 1
    rates = [rate(recipe.training, step) for step in range(STEPS)]
    assert [line["learning_rate"] for line in logged] == pytest.approx(rates)
    weights = load_file(run / f"checkpoints/checkpoint-{STEPS}/model.safetensors")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach(), rtol=1e-2, atol=NOISE)
