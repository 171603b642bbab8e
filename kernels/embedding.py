"""The residual stream before the first layer, on a CPU."""

from __future__ import annotations

import torch

from cdgen.kernels import reference
from cdgen.kernels.arguments import addresses, check_dtype, check_tensor, dtype_name
from cdgen.kernels.dispatch import choose_backend, native


def embedding(
    tokens: torch.Tensor,  # [N] int64
    positions: torch.Tensor,  # [N] int64: of each token in its sequence
    models: torch.Tensor,  # [blocks] int64: the model whose tables each block of N rows takes
    table: torch.Tensor,  # [M, V, D]
    position_table: torch.Tensor | None,  # [M, P, D]: learned positions, like table
    backend: str | None = None,
) -> torch.Tensor:  # [blocks * N, D] float32: the residual stream adds up many layers
    """Return the rows of the tokens, plus those of their positions if these are learned.

    Raises IndexError if a token or a learned position has no row, ValueError on tensors that do not
    fit; there is no Triton kernel. `models` are the caller's promise.
    """
    count, (many, vocab_size, hidden_size) = tokens.shape[0], table.shape
    chosen = choose_backend(tokens.device, backend)
    for name, x in (("tokens", tokens), ("positions", positions), ("models", models)):
        check_tensor(name, x, (x.shape[0] if name == "models" else count,), torch.int64)
    check_dtype("table", table, "cpu")
    check_tensor("table", table, (many, vocab_size, hidden_size), table.dtype)
    learned = 0
    if position_table is not None:
        learned = position_table.shape[1]
        check_tensor("position_table", position_table, (many, learned, hidden_size), table.dtype)
    if chosen == "triton":
        raise ValueError("backend: embedding has no triton kernel; expected cpu or reference")
    if chosen == "reference":
        return reference.embedding(tokens, positions, models, table, position_table)
    out = torch.empty(models.shape[0] * count, hidden_size)
    native.embedding(
        *addresses(tokens, positions, models, table, position_table, out),
        dtype_name(table.dtype),
        count,
        models.shape[0],
        vocab_size,
        learned,
        hidden_size,
    )
    return out
