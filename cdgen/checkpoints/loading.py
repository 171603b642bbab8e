"""Load the weights of a checkpoint as plain tensors, for the lean decoders."""

from __future__ import annotations

from pathlib import Path

import torch

from cdgen.checkpoints.checkpoint import Checkpoint, reading
from cdgen.errors import ModelError


def load_tensors(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Load all tensors onto the CPU and cast the floating-point ones to `dtype`. Raises ModelError.

    Integer and boolean tensors (causal masks in old checkpoints) keep their own dtype.
    """
    names_in: dict[Path, list[str]] = {}
    for name, info in checkpoint.tensors.items():
        names_in.setdefault(info.file, []).append(name)
    loaded: dict[str, torch.Tensor] = {}
    with reading(checkpoint.folder):
        for path, names in names_in.items():
            loaded |= _load_file(path, names, dtype)
    return loaded


def _load_file(path: Path, names: list[str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    loaded = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in names:
                tensor = file.get_tensor(name)
                kept = dtype if tensor.is_floating_point() else tensor.dtype
                # The library maps the file into memory. Without a copy, a training run that
                # overwrites this checkpoint would change the weights in the middle of a run.
                loaded[name] = tensor.to(kept, copy=True)
    except SafetensorError as error:
        raise ModelError(
            f"{path} no longer loads ({error}): it has changed since it was checked; start again"
        ) from error
    return loaded
