"""Helpers that read what `cdgen eval` writes, and change weights on disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Run = Callable[..., Any]  # the type of the fixture `run`
TASKS = "blimp_fast,ewok_fast"  # the tasks it scores unless told otherwise
# Largest difference between float32 and float64 sums of about 30 log-probabilities.
SAME = 1e-4


def strict_json(text: str) -> Any:
    """Parse JSON; fail on NaN and Infinity, which Python's parser accepts."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def document(folder: Path) -> Any:
    return strict_json((folder / "results.json").read_text())


def predictions(folder: Path, task: str) -> list[dict[str, Any]]:
    lines = (folder / f"predictions/{task}.jsonl").read_text().split("\n")
    assert lines.pop() == ""
    return [strict_json(line) for line in lines]


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scores_of(folder: Path, task: str = "blimp_fast") -> list[list[float]]:
    return [row["scores"] for row in predictions(folder, task)]


def change_weights(folder: Path, name: str, change: Callable[[torch.Tensor], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors[name])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
