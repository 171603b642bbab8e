"""Folders that people give in place of a checkpoint: what each is, and what to give instead."""

from __future__ import annotations

import json
import re
from pathlib import Path

ADAPTER = "adapter_config.json"  # of PEFT
_HUB_PLACES = ("snapshots/*", "models--*/snapshots/*", "hub/models--*/snapshots/*")
_RUN_PLACES = ("checkpoint-*", "checkpoints/checkpoint-*")


def describe_folder(folder: Path) -> str | None:
    """Return what a path without a model of its own is, and what to give; None if not known."""
    if folder.suffix == ".gguf" and folder.is_file():
        return _gguf(folder, folder)
    if (folder / ADAPTER).is_file():
        return (
            f"{folder} is a PEFT adapter of {_base_of(folder)}, not a model: merge it once and give"
            " the merged folder (AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload()"
            ".save_pretrained(...))"
        )
    if files := sorted(folder.glob("*.gguf")):
        return _gguf(folder, files[0])
    if snapshots := _checkpoints(folder, *_HUB_PLACES):
        return _give(folder, "the folder of a hub cache", snapshots, _current(snapshots))
    if steps := _checkpoints(folder, *_RUN_PLACES):
        return _give(folder, "the folder of a training run", steps, max(steps, key=_step))
    if below := _checkpoints(folder, "*"):
        return _give(folder, "a folder of checkpoints", below, below[0])
    return None


def adapter_note(folder: Path) -> str | None:
    """Return a line if an adapter lies beside a model's weights."""
    if not (folder / ADAPTER).is_file():
        return None
    return f"{folder}: the adapter beside the weights ({ADAPTER}) is not used: merge it to use it"


def _gguf(folder: Path, file: Path) -> str:
    return (
        f"{folder} holds GGUF weights ({file.name}), the format of llama.cpp: give the safetensors"
        " checkpoint that they were made from, or convert them once (from_pretrained(...,"
        " gguf_file=...).save_pretrained(...))"
    )


def _base_of(folder: Path) -> str:
    try:
        base = json.loads((folder / ADAPTER).read_bytes())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError):
        base = None
    return f"{base!r:.100}" if base else "an unnamed model"


def _checkpoints(folder: Path, *places: str) -> list[Path]:
    found = (path for place in places for path in folder.glob(place))
    return sorted(p for p in found if (p / "config.json").is_file() or (p / ADAPTER).is_file())


def _current(snapshots: list[Path]) -> Path:
    """Return the snapshot that the branch `main` names, or else the last one."""
    for snapshot in snapshots:
        main = snapshot.parent.parent / "refs/main"
        if main.is_file() and main.read_text(errors="replace").strip() == snapshot.name:
            return snapshot
    return snapshots[-1]


def _step(folder: Path) -> int:
    return int("".join(re.findall(r"\d+", folder.name)) or -1)


def _give(folder: Path, what: str, found: list[Path], best: Path) -> str:
    if len(found) == 1:
        return f"{folder} is {what}: give the checkpoint in it, {best}"
    return f"{folder} is {what}: give one of the {len(found)} checkpoints in it, such as {best}"
