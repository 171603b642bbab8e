"""The models that a finished run leaves: a GOOD/BAD pair with its model card, or a student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from cdgen.checkpoints.pretrained import load_causal_lm
from cdgen.storage import sync_files, sync_folder, write_atomic
from cdgen.train.checkpoints import mark_complete, require_whole
from cdgen.train.config import Recipe
from cdgen.train.data.training_data import TrainingData
from cdgen.train.pair.card import EXPORT_DTYPE, ExportedModel, model_card
from cdgen.train.pair.choice import choose_pair_of_run
from cdgen.train.validation import validation_losses


def export_pair(recipe: Recipe, data: TrainingData, out: Path) -> None:
    """Write out/pair/{good,bad} and out/pair/README.md.

    Raises ModelError if no checkpoint is far enough behind GOOD to be BAD.
    """
    assert recipe.bad_gap is not None  # callers export a pair only for a recipe that has one
    steps = choose_pair_of_run(out, recipe.bad_gap)
    tokenizer = data.pretrained_tokenizer(recipe.block_size)
    exported = {}
    for role, step in steps._asdict().items():
        folder = out / "pair" / role
        facts = _export(out / "checkpoints" / f"checkpoint-{step}", tokenizer, folder)
        mark_complete(folder, facts)
        model = load_causal_lm(folder, torch.float32)
        losses = validation_losses(model, data.validation)
        exported[role] = ExportedModel(step, model.num_parameters(), losses)
    card = model_card(recipe, exported["good"], exported["bad"])
    write_atomic(out / "pair" / "README.md", card.encode())


def export_student(recipe: Recipe, data: TrainingData, out: Path) -> None:
    """Write out/model from the last checkpoint."""
    checkpoint = out / "checkpoints" / f"checkpoint-{recipe.total_steps}"
    _export(checkpoint, data.pretrained_tokenizer(recipe.block_size), out / "model")
    sync_files(out / "model")
    sync_folder(out)


def _export(checkpoint: Path, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    """Write model and tokenizer into `folder`, and return the facts of the checkpoint's marker.
    Raises ModelError if the checkpoint is not whole."""
    facts = require_whole(checkpoint)
    model = load_causal_lm(checkpoint, EXPORT_DTYPE)
    model.config.use_cache = True  # Trainer saves False because training does not use it
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return facts
