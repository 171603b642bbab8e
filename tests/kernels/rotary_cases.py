"""Arguments of `rotary_to_cache` for the tests of its Triton kernel."""

from __future__ import annotations

import torch
from layer_cases import normal, normal_on

ROWS, CAPACITY = 3, 11
POSITIONS = (0, 10, 3)
TOLERANCE = (1e-6, 1e-6)  # of fp32 arithmetic, derived in tests/kernels/test_rotary_to_cache.py


def problem(
    device: str,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype = torch.float32,
    models: int = 1,
    stored: torch.dtype | None = None,
    capacity: int = CAPACITY,
) -> dict[str, torch.Tensor]:
    """Return the arguments by name. The caches, in dtype `stored` or else qkv's and with room for
    `capacity` tokens, are full, so that a stray write shows."""
    rows = models * ROWS
    angle = normal(CAPACITY, head_dim // 2, seed=3)
    keys, values = normal_on(device, stored or dtype, 2, rows, kv_heads, capacity, head_dim, seed=4)
    return {
        "qkv": normal_on(device, dtype, rows, (heads + 2 * kv_heads) * head_dim),
        "cos": angle.cos().to(device),
        "sin": angle.sin().to(device),
        "positions": torch.tensor(POSITIONS, device=device),
        "keys": keys.clone(),
        "values": values.clone(),
    }


def copied(arguments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in arguments.items()}
