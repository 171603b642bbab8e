"""The checkpoints to evaluate: their folders, names and hashes, and how far training had come."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdgen.checkpoints.other_folders import describe_folder
from cdgen.errors import ModelError, UsageError
from cdgen.storage import sha256_of

_CHECKPOINT = re.compile(r"(?:checkpoint-|chck_)(\d+)(M?)")
# The files beside tokenizer.json say what BOS is and whether it is added.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class NamedCheckpoint:
    """A checkpoint folder and a name that no other checkpoint of the run has."""

    name: str
    folder: Path
    step: int | None  # N of a Trainer's checkpoint-N; words of a BabyLM revision chck_NM
    validation_loss: float | None  # nats per token, as the training run logged it


def tokenizer_sha256(folder: Path) -> str:
    paths = [folder / name for name in _TOKENIZER_FILES]
    hashes = [sha256_of(path) for path in paths if path.exists()]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def model_sha256(weights: str, tokenizer: str) -> str:
    """Hash a whole checkpoint, from the hashes of its weights and of its tokenizer's files."""
    return hashlib.sha256(f"{weights} {tokenizer}".encode()).hexdigest()


def find_checkpoints(models: Sequence[Path]) -> list[NamedCheckpoint]:
    """Return each folder of `models`, or the checkpoints below it (checkpoint-N, chck_NM) in order.

    Raises ModelError for a folder that is neither, UsageError for one that is given twice.
    """
    folders = [found for model in models for found in _expand(model)]
    resolved = [folder.resolve() for folder in folders]
    for folder, real in zip(folders, resolved, strict=True):
        if resolved.count(real) > 1:
            raise UsageError(f"--model {folder}: given more than once")
    return [
        NamedCheckpoint(name, folder, _step(folder), _validation_loss(folder))
        for name, folder in zip(_names(resolved), folders, strict=True)
    ]


def _expand(model: Path) -> list[Path]:
    if (model / "config.json").exists() or not model.is_dir():
        return [model]  # a folder that is missing or broken is reported when it is opened
    below = [
        path
        for parent in (model, model / "checkpoints")
        for path in (parent.iterdir() if parent.is_dir() else ())
        if _CHECKPOINT.fullmatch(path.name) and path.is_dir()
    ]
    if not below:
        other = f"{model} holds neither config.json nor checkpoint-N or chck_NM folders"
        raise ModelError(describe_folder(model) or other)
    return sorted(below, key=lambda path: _step(path) or 0)


def _step(folder: Path) -> int | None:
    match = _CHECKPOINT.fullmatch(folder.resolve().name)
    return int(match[1]) * (1_000_000 if match[2] else 1) if match else None


def _names(folders: list[Path]) -> list[str]:
    """Name each folder by as many of its last parts as set it apart: `good`, or `a-good` beside
    `b-good`."""
    names: list[str] = []
    for folder in folders:
        parts = folder.parts[1:] or ("model",)
        others = [other.parts[1:] for other in folders if other != folder]
        size = next(
            (n for n in range(1, len(parts) + 1) if all(o[-n:] != parts[-n:] for o in others)),
            len(parts),
        )
        name = "-".join(parts[-size:])
        # a/good and a-good would both be called a-good.
        tries = (f"{name}~{n}" if n > 1 else name for n in range(1, len(folders) + 1))
        names.append(next(tried for tried in tries if tried not in names))
    return names


def _validation_loss(folder: Path) -> float | None:
    """Return the loss that `cdgen train` logged (in metrics.jsonl, or a word milestone's
    complete.json), or the one in the Trainer's own trainer_state.json."""
    step = _step(folder)
    if step is None:
        return None
    marker = folder / "complete.json"
    milestone = _json_object(marker.read_text()) if marker.is_file() else {}
    if "validation" in milestone:
        return _finite(milestone["validation"]["all"])
    metrics = folder.resolve().parent.parent / "metrics.jsonl"
    lines = metrics.read_text(errors="replace").splitlines() if metrics.is_file() else []
    losses = [loss for line in lines if (loss := _loss_of(line, step)) is not None]
    if losses:
        return losses[-1]  # if a step was run again, its later loss counts
    state = folder / "trainer_state.json"
    if not state.is_file():
        return None
    log = _json_object(state.read_text(errors="replace")).get("log_history", [])
    logged = [e["eval_loss"] for e in log if e.get("step") == step and "eval_loss" in e]
    return _finite(logged[-1]) if logged else None


def _finite(loss: Any) -> float | None:
    """Return a loss to choose by; None for NaN, which a diverged run logs."""
    return float(loss) if isinstance(loss, int | float) and math.isfinite(loss) else None


def _loss_of(line: str, step: int) -> float | None:
    entry = _json_object(line)
    loss = entry.get("validation", {}).get("all") if entry.get("step") == step else None
    return _finite(loss)


def _json_object(text: str) -> dict[str, Any]:
    """Return the object in `text`; an empty one if a running or killed training cut it short."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
