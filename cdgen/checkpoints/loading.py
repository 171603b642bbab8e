"""Load the weights of a checkpoint as plain tensors, or as a model of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cdgen.checkpoints.checkpoint import Checkpoint, reading
from cdgen.errors import ModelError, one_line


def load_causal_lm(folder: Path, dtype: torch.dtype) -> Any:
    """Load a model from safetensors only, and run none of its own code. Raises ModelError."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # cdgen shows its own progress, and a bar would fill log files
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load {folder}: {one_line(error, 300)}") from error
    return model.eval()


def load_tensors(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Load all tensors onto the CPU and cast the floating-point ones to `dtype`. Raises ModelError.

    Integer and boolean tensors (causal masks in old checkpoints) keep their own dtype.
    """
    if checkpoint.config.get("quantization_config"):
        raise ModelError(
            f"{checkpoint.folder} holds quantized weights (quantization_config in config.json):"
            " dequantize and save it first"
        )
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
