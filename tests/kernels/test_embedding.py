"""The residual stream before the first layer, on the CPU, against the reference."""

from __future__ import annotations

import pytest
import torch
from layer_cases import normal

from cdgen.kernels import reference
from cdgen.kernels.embedding import embedding

VOCAB, LEARNED, ROWS = 23, 11, 7
TOKENS = torch.tensor([0, 22, 5, 5, 1, 9, 3])
POSITIONS = torch.tensor([10, 0, 4, 4, 1, 2, 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 64, 100])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("models", [[0], [0, 0], [1, 0, 1]])
def test_against_the_reference(
    instruction_set: str, models: list[int], learned: bool, width: int, dtype: torch.dtype
) -> None:
    table = normal(2, VOCAB, width).to(dtype)
    positions = normal(2, LEARNED, width, seed=1).to(dtype) if learned else None
    args = TOKENS, POSITIONS, torch.tensor(models), table, positions
    out = embedding(*args)
    assert out.dtype is torch.float32
    assert torch.equal(out, reference.embedding(*args))
    first = table[models[0], TOKENS].float()
    if positions is not None:
        first += positions[models[0], POSITIONS]
    assert torch.equal(out[:ROWS], first)


@pytest.mark.parametrize("token", [-1, VOCAB, 2**40])
def test_a_token_without_a_row_is_refused(token: int) -> None:
    tokens = torch.tensor([0, token])
    with pytest.raises(IndexError, match=f"tokens: expected numbers from 0 to 22, got {token}"):
        embedding(tokens, torch.zeros(2).long(), torch.zeros(1).long(), normal(1, VOCAB, 8), None)


@pytest.mark.parametrize("position", [-1, LEARNED])
def test_only_learned_positions_are_bounded(position: int) -> None:
    tokens, positions = torch.zeros(2).long(), torch.tensor([0, position])
    table, model = normal(1, VOCAB, 8), torch.zeros(1).long()
    assert torch.equal(embedding(tokens, positions, model, table, None), table[0, :1].repeat(2, 1))
    with pytest.raises(IndexError, match="positions: expected numbers from 0 to 10, got"):
        embedding(tokens, positions, model, table, normal(1, LEARNED, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(7)}, "tokens: expected .*int64"),
        ({"positions": torch.zeros(6).long()}, r"positions: expected .*\[7\].* got \[6\]"),
        ({"table": normal(1, VOCAB, 8).half()}, "table: expected .*bfloat16, got .*float16"),
        ({"position_table": normal(2, LEARNED, 8)}, r"position_table: .*\[1, 11, 8\].* got \[2,"),
        ({"backend": "triton"}, "triton"),
    ],
)
def test_arguments_are_checked(
    change: dict[str, object], message: str, no_kernel_runs: None
) -> None:
    args: dict[str, object] = {
        "tokens": TOKENS,
        "positions": POSITIONS,
        "models": torch.zeros(1).long(),
        "table": normal(1, VOCAB, 8),
        "position_table": None,
    }
    with pytest.raises(ValueError, match=message):
        embedding(**(args | change))  # type: ignore[arg-type]
